"""The fixtures of tests/: a small folder of sounds with captions, and what is made from it."""

from tests.conftest import latents, run, sounds, trained  # noqa: F401
