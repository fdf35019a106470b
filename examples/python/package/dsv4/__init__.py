# SPDX-License-Identifier: MIT
"""DeepSeek-V4 in C++, for Python: checkpoints, tokenizer, chats, the model with every intermediate value, generation,
saved states, golden bundles, training.  docs/python.md shows each; the C++ headers say how it works."""
from __future__ import annotations

import pathlib
import typing

from ._dsv4 import (
    Bundle, BundleTensor, Checkpoint, ContractViolation, Error, FormatError, Generation, Gradients, InternalError, Model, Prompt,
    Recording, Sequence, StreamDecoder, Tap, Token, Tokenizer, Trainer, Unsupported, Verdict, check_bundle,
    encode_chat, gradients, make_bundle, make_recipe_checkpoint, parse_completion, training_settings, verify,
    version as __version__)

if typing.TYPE_CHECKING:  # importing NumPy takes ten times as long as importing dsv4: it waits until it is needed
    import numpy
    import numpy.typing

__all__ = [
    "Bundle", "BundleTensor", "Checkpoint", "ContractViolation", "Error", "FormatError", "Generation", "Gradients",
    "InternalError", "Model", "Prompt", "Recording", "Sequence", "StreamDecoder", "Tap", "Token", "Tokenizer", "Trainer",
    "Unsupported", "Verdict", "__version__", "check_bundle", "embedded_model", "encode_chat", "gradients", "make_bundle",
    "make_recipe_checkpoint", "parse_completion", "stream_text", "to_float32", "training_settings", "verify"]


def embedded_model() -> pathlib.Path:
    """The directory of the checkpoint that comes with the package: 7 M parameters, trained on the King James Bible."""
    return pathlib.Path(__file__).parent / "kjv-mini"


def to_float32(bits: numpy.typing.NDArray[numpy.uint16]) -> numpy.typing.NDArray[numpy.float32]:
    """bfloat16 values, as this module gives them, as float32: exact, a copy."""
    import numpy
    if bits.dtype != numpy.uint16:
        raise ContractViolation(f"to_float32: found {bits.dtype}, expected uint16, the bits of bfloat16")
    # A bfloat16 is the upper half of a float32.
    return (bits.astype(numpy.uint32) << 16).view(numpy.float32)


def stream_text(model: Model, tokenizer: Tokenizer, prompt: str | Prompt, *, max_new: int = 256,
                temperature: float = 0.0, top_p: float = 1.0, seed: int = 0) -> typing.Iterator[str]:
    """What the model says after `prompt`, piece by piece as it is made, up to its end-of-text token.

    A text is continued; a Prompt (encode_chat) is answered."""
    if isinstance(prompt, Prompt):
        ids = tokenizer.encode_prompt(prompt)
    else:
        ids = ([] if tokenizer.bos is None else [tokenizer.bos]) + tokenizer.encode(prompt)
    stop = [] if tokenizer.eos is None else [tokenizer.eos]
    words = StreamDecoder(tokenizer)
    sequence = model.new_sequence(len(ids) + max_new)
    for token in model.generate(sequence, ids, max_new=max_new, stop_ids=stop, temperature=temperature, top_p=top_p, seed=seed):
        yield words.push(token.id)
    yield words.finish()
