"""A package beside `odd.py`: names taken on from its files."""

from . import helpers as hp
from .base import Base

__all__ = ["Base", "hp"]
