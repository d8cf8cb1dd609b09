"""A trained model as Hugging Face transformers loads it: a configuration, a causal language model, a cache.

`ship/modeling.py` writes this file and the parts of the model that one recipe uses into `modeling_pargolf.py`; there
`MODEL` is the recipe's model as an expression. The weights are float32, in the order of the package's own module.

In `generate()` the model computes only new tokens, with the cache of `model/cache.py`. When a text becomes longer than
the window that the model was scored with, the window moves by a quarter, as in `evaluate/generate.py`. Padding on the
left is removed from each row first, so a padded row gives the same result as the row alone.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from pargolf.model.cache import Cache
from pargolf.model.transformer import Model, Transformer

MODEL: Model | None = None


class PargolfConfig(PretrainedConfig):
    """Facts about the model for other tools; its structure is `MODEL` in this file."""

    model_type = "pargolf"

    def __init__(self, max_position_embeddings: int = 1024, **facts: Any) -> None:
        super().__init__(**facts)
        self.max_position_embeddings = max_position_embeddings


class ShownText:
    """Rows of equal padding during generation: the ids so far, and the model's cache for them.

    If the next ids begin with these, the cache is extended; otherwise it is built again.
    """

    def __init__(self, model: Transformer, length: int) -> None:
        self.cache = Cache(model, length)
        self.start = 0
        self.shown_BT: Tensor | None = None

    def logits(self, ids_BT: Tensor) -> Tensor:
        """Logits (B, V) after the last of `ids`, which are the whole text so far."""
        length, total = self.cache.length, ids_BT.shape[1]
        if not self._continues(ids_BT):
            self.cache.forget()
            self.start = max(0, total - length)
        elif total - self.start > length:
            self.cache.forget()
            self.start = total - (length - length // 4)
        self.shown_BT = ids_BT
        return self.cache(ids_BT[:, self.start + self.cache.shown :])

    def _continues(self, ids_BT: Tensor) -> bool:
        before_BT = self.shown_BT
        return (
            before_BT is not None
            and before_BT.shape[0] == ids_BT.shape[0]
            and before_BT.shape[1] < ids_BT.shape[1]
            and torch.equal(ids_BT[:, : before_BT.shape[1]], before_BT)
        )


class PargolfForCausalLM(PreTrainedModel, GenerationMixin):
    """`input_ids (B, T) -> logits (B, T, V)`."""

    config_class = PargolfConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _is_stateful = True
    _no_split_modules = ["BlockModule"]

    def __init__(self, config: PargolfConfig) -> None:
        super().__init__(config)
        assert MODEL is not None
        self.model = Transformer(MODEL)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def _init_weights(self, module: Any) -> None:
        """Do nothing, because every weight is in the file."""

    def get_input_embeddings(self) -> Any:
        """The token table."""
        return self.model.embed.tokens

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        texts: dict[int, ShownText] | None = None,
        **ignored: Any,
    ) -> CausalLMOutputWithPast:
        """Logits of each position, and with `labels` (B, T) the mean loss in nats of the next tokens (-100: ignored).

        `texts` is the state of `generate` between its steps; with it, logits are returned for the last position only.
        """
        padding_B = _left_padding(input_ids, attention_mask)
        rows = {pad: padding_B == pad for pad in sorted(set(padding_B.tolist()))}
        if texts is not None:
            logits_BTV = self._continued(input_ids, rows, texts)
        elif len(rows) == 1 and 0 in rows:
            logits_BTV = self.model(input_ids)
        else:
            shape = (*input_ids.shape, self.model.spec.vocab)
            logits_BTV = torch.zeros(shape, dtype=self.dtype, device=input_ids.device)
            for pad, of in rows.items():
                logits_BTV[of, pad:] = self.model(input_ids[of, pad:])
        loss = None
        if labels is not None:
            loss = cross_entropy(logits_BTV[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)
        return CausalLMOutputWithPast(loss=loss, logits=logits_BTV)

    def _continued(self, ids_BT: Tensor, rows: dict[int, Tensor], texts: dict[int, ShownText]) -> Tensor:
        """Logits (B, 1, V) after the last position."""
        logits_BV = torch.zeros(len(ids_BT), self.model.spec.vocab, dtype=self.dtype, device=ids_BT.device)
        for pad, of in rows.items():
            if pad not in texts:
                texts[pad] = ShownText(self.model, self.config.max_position_embeddings)
            logits_BV[of] = texts[pad].logits(ids_BT[of, pad:])
        return logits_BV[:, None]

    def _prepare_cache_for_generation(self, generation_config: Any, model_kwargs: dict[str, Any], *sizes: Any) -> None:
        """Add our own state; `generate` calls this once, before its steps."""
        model_kwargs["texts"] = {}

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        texts: dict[int, ShownText] | None = None,
        **ignored: Any,
    ) -> dict[str, Any]:
        """The arguments of the next step: the whole text so far, of which the cache computes only the new part."""
        return {"input_ids": input_ids, "attention_mask": attention_mask, "texts": {} if texts is None else texts}


def _left_padding(ids_BT: Tensor, mask_BT: Tensor | None) -> Tensor:
    """The number of padding positions before each row's text, (B,)."""
    if mask_BT is None:
        return torch.zeros(len(ids_BT), dtype=torch.long)
    return mask_BT[:, -ids_BT.shape[1] :].long().argmax(-1).cpu()
