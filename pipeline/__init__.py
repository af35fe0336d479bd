"""Lastmile's host side: from a trained model to files on devices, measured there."""
