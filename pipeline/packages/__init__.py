"""Packages: what a bundle holds for one kind of developer, such as an Android library or a Python wheel."""
