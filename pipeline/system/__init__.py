"""What the pipeline needs of the operating system: files, processes, packages, progress, TensorBoard event files."""
