"""What published scripts wrote and how they computed it: state dicts, artifacts, quantizers."""

from pargolf.upstream.quantizers import quantize
from pargolf.upstream.state_dicts import load

__all__ = ["load", "quantize"]
