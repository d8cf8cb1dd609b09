"""Names of attributes that belong to libraries: a program may not rename or reuse them."""

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import itertools
import json
import lzma
import math
import os
import re
import struct
import time
import zlib
from argparse import ArgumentParser
from collections import deque
from dataclasses import Field
from functools import cache
from pathlib import Path

import brotli
import constriction
import numpy as np
import torch
from sentencepiece import SentencePieceProcessor


@cache
def foreign_names() -> frozenset[str]:
    """The names of attributes of imported libraries."""
    kinds = [torch, torch.Tensor, torch.nn.Module, torch.nn.ModuleDict, torch.nn.functional, torch.optim.AdamW]
    kinds += [torch.Generator, torch.distributed, np, np.ndarray, np.memmap, constriction.stream.queue, lzma, brotli]
    kinds += [str, bytes, bytearray, dict, list, tuple, set, int, float, slice, deque, Path, os, os.stat_result, re]
    kinds += [re.Pattern, re.Match, struct.Struct, ArgumentParser, SentencePieceProcessor, dataclasses, Field, json]
    kinds += [constriction.stream.queue.RangeEncoder, constriction.stream.queue.RangeDecoder, constriction.stream.model]
    kinds += [torch.autograd.function.FunctionCtx, torch.cuda, torch.linalg, hashlib, inspect, type, time, math, zlib]
    kinds += [zlib.decompressobj(), lzma.LZMADecompressor(), brotli.Decompressor(), torch.finfo, np.dtype]
    kinds += [torch.device]
    kinds += [constriction.stream, constriction, torch.ops.aten, torch.compiler, contextlib, functools, itertools]
    return frozenset(name for kind in kinds for name in dir(kind)) | {
        "ops",
        "aten",
        "saved_tensors",
        "grad",
        "ZstdError",
    }
