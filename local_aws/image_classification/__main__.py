"""Thin stand-in until the real one lands: logistic regression on pixels."""
import argparse, io, json, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
import numpy as np
from PIL import Image
from local_aws.lifeline import end_with_parent
a = argparse.ArgumentParser(); a.add_argument("command"); a.add_argument("--root", type=Path); a.add_argument("--end-with-parent", action="store_true"); o = a.parse_args()
if o.end_with_parent: end_with_parent()
def feat(f): return np.asarray(Image.open(f).convert("RGB").resize((32, 32)), np.float32).ravel() / 255
def load(ch):
    rows = [l.split("\t") for l in next((o.root / f"input/data/{ch}_lst").iterdir()).read_text().splitlines()]
    return np.stack([feat(o.root / f"input/data/{ch}" / r[2]) for r in rows]), np.array([int(r[1]) for r in rows])
if o.command == "train":
    from sklearn.linear_model import LogisticRegression
    hp = json.loads((o.root / "input/config/hyperparameters.json").read_text())
    x, y = load("train")
    if len(y) != int(hp["num_training_samples"]):
        (o.root / "output/failure").write_text("num_training_samples differs"); sys.exit(1)
    m = LogisticRegression(C=0.003, max_iter=300).fit(x, y)
    for n, c in (("Train", "train"), ("Validation", "validation")):
        print(f"[{time.strftime('%m/%d/%Y %H:%M:%S')} INFO 1] Epoch[0] {n}-accuracy={m.score(*load(c)):.6f}", flush=True)
    np.savez(o.root / "model/head.npz", w=m.coef_, b=m.intercept_)
else:
    d = np.load(o.root / "model/head.npz"); w, b = d["w"], d["b"]
    class H(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"; disable_nagle_algorithm = True
        def log_message(self, *_): pass
        def say(self, s, t, ct="application/json"):
            t = t.encode(); self.send_response(s); self.send_header("Content-Type", ct); self.send_header("Content-Length", str(len(t))); self.end_headers(); self.wfile.write(t)
        def do_GET(self): self.say(200, "")
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            if not self.headers["Content-Type"].startswith(("image/", "application/x-image")): return self.say(415, "unsupported")
            try: x = feat(io.BytesIO(body))
            except Exception: return self.say(400, "no image")
            p = 1 / (1 + np.exp(-(w @ x + b)[0])); p = [float(1 - p), float(p)]
            if self.headers.get("Accept") == "application/jsonlines": return self.say(200, json.dumps({"prediction": p}), "application/jsonlines")
            self.say(200, json.dumps(p))
    s = ThreadingHTTPServer(("127.0.0.1", 0), H); print("listening on", s.server_port, flush=True); s.serve_forever()
