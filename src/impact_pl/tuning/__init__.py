"""Tune a model to your own recordings: from a folder of sounds to a model and a page about it."""
