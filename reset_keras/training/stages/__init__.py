"""What runs stages: the pipeline, its checkpoints, its work directory and its logs."""
