"""Access to the operating system: files, processes, packages, progress, and TensorBoard event files."""
