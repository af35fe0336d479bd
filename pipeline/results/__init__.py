"""Results: what was exported and measured, read back from the build folder. No framework is loaded."""
