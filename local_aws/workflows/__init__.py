class Workflows:
    def __init__(self, server):
        self.server = server

    def attach(self, service, app):
        pass
