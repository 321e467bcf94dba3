"""The trainer: from labelled samples to a checkpoint that has proved it is what was trained.

    samples, stats, buffer     arrays, one-pass statistics, the replay memory: numpy only
    datasets                   named sets, .npz, image folders, shards
    models, strategies         networks; how to learn without forgetting
    learner, correction        the training loop; the instant correction
    export, runtime, scoring   one ONNX file, parity, scores of the very bytes that will be served
    prepare, run               a Job from its inputs to its outcome
    app                        the same from a laptop: `continual train`

Importing this package imports no torch.
"""
