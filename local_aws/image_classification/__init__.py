"""A stand-in for SageMaker's built-in image classification algorithm that keeps its contract.

    python -m local_aws.image_classification train --root DIR
    python -m local_aws.image_classification serve --root DIR

DIR is what /opt/ml is in SageMaker's container: input/config, input/data/<channel>, model, output/failure. Hyperparameters,
channels, log lines, content types and answers are the built-in's. The method is not: where that one trains a ResNet on a
GPU for minutes, this one trains a logistic regression on the features of a small frozen network (backbone/) in seconds.
"""
