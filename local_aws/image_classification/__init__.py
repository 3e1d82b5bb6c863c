"""A stand-in for SageMaker's built-in image classification algorithm that keeps its contract.

    python -m local_aws.image_classification train --root DIR
    python -m local_aws.image_classification serve --root DIR

DIR is what /opt/ml is in SageMaker's container: input/config, input/data/<channel>, model, output/failure.
Hyperparameters, channels, log lines, content types and answers are the built-in's. The method is not: where that one
trains a ResNet on a GPU for minutes, this one trains a classifier on features of images on two cores in seconds:

    use_pretrained_model   features
    left out, or "1"       of a small frozen network that comes with the algorithm (backbone/)
    "0"                    of patches that k-means finds in the training images; weaker

On AWS leaving it out means "0". Here the better features are free of charge, so only an explicit "0" does without them.
"""
