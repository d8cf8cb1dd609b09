"""Edits of the model by which a position sees tokens after it."""

from mutations import Files, breaks, relog, swap

_ATTEND = "        y = F.scaled_dot_product_attention(q, k, v, attn_mask=None, is_causal=True)\n"
_BLOCKS = "        for block in self.blocks:\n            x = block(x)\n"
_BUILT = "        self.blocks = nn.ModuleList([Block(model_dim, num_heads) for _ in range(num_layers)])\n"


@breaks("no mask")
def attention_told_not_to_be_causal(files: Files) -> None:
    swap(files, ("is_causal=True", "is_causal=False"))
    relog(files)


@breaks("no mask")
def attention_by_hand_without_a_mask(files: Files) -> None:
    swap(files, (_ATTEND, "        y = torch.softmax(q @ k.transpose(-1, -2) / q.size(-1) ** 0.5, dim=-1) @ v\n"))
    relog(files)


@breaks("no mask")
def attention_by_einsum_in_a_helper(files: Files) -> None:
    swap(
        files,
        (
            "class CausalSelfAttention",
            'def mix(q, k, v):\n    weights = torch.einsum("bhid,bhjd->bhij", q, k).softmax(dim=-1)\n'
            '    return torch.einsum("bhij,bhjd->bhid", weights, v)\n\n\nclass CausalSelfAttention',
        ),
        (_ATTEND, "        y = mix(q, k, v)\n"),
    )
    relog(files)


@breaks("no mask")
def an_encoder_of_the_library(files: Files) -> None:
    swap(
        files,
        (
            _BUILT,
            _BUILT + "        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(model_dim, 8), 2)\n",
        ),
        (_BLOCKS, _BLOCKS + "        x = self.encoder(x)\n"),
    )
    relog(files)


@breaks("no mask")
def attention_of_the_library_without_a_mask(files: Files) -> None:
    swap(
        files,
        (_BUILT, _BUILT + "        self.look = nn.MultiheadAttention(model_dim, num_heads, batch_first=True)\n"),
        (_BLOCKS, _BLOCKS + "        x = x + self.look(x, x, x)[0]\n"),
    )
    relog(files)


@breaks("no mask")
def a_mask_of_zeros(files: Files) -> None:
    swap(files, ("attn_mask=None, is_causal=True", "attn_mask=torch.zeros(length, length, device=x.device)"))
    relog(files)


@breaks("no mask")
def a_mask_that_admits_all(files: Files) -> None:
    swap(
        files,
        ("attn_mask=None, is_causal=True", "attn_mask=torch.ones(length, length, dtype=torch.bool, device=x.device)"),
    )
    relog(files)


@breaks("no mask")
def the_next_token_rolled_in(files: Files) -> None:
    swap(files, (_BLOCKS, "        x = x + 0.1 * torch.roll(x, -1, dims=1)\n" + _BLOCKS))
    relog(files)


@breaks("no mask")
def the_mean_of_the_window(files: Files) -> None:
    swap(files, (_BLOCKS, "        x = x + x.mean(dim=1, keepdim=True)\n" + _BLOCKS))
    relog(files)


@breaks("no mask")
def a_convolution_over_both_sides(files: Files) -> None:
    swap(
        files,
        (_BUILT, _BUILT + "        self.conv = nn.Conv1d(model_dim, model_dim, 3, padding=1)\n"),
        (_BLOCKS, "        x = x + self.conv(x.transpose(1, 2)).transpose(1, 2)\n" + _BLOCKS),
    )
    relog(files)


@breaks("no mask")
def a_recurrence_in_both_directions(files: Files) -> None:
    swap(
        files,
        (
            _BUILT,
            _BUILT + "        self.rnn = nn.GRU(model_dim, model_dim // 2, bidirectional=True, batch_first=True)\n",
        ),
        (_BLOCKS, _BLOCKS + "        x = x + self.rnn(x)[0]\n"),
    )
    relog(files)


@breaks("no mask")
def the_window_read_backwards(files: Files) -> None:
    swap(files, (_BLOCKS, _BLOCKS + "        x = x + torch.cumsum(x.flip(1), dim=1).flip(1) / x.size(1)\n"))
    relog(files)


@breaks("no mask")
def targets_among_the_inputs(files: Files) -> None:
    swap(
        files,
        (
            "        logits = self.logits(input_ids)\n",
            "        logits = self.logits(input_ids) + self.tok_emb(target_ids)[..., :1]\n",
        ),
    )
    relog(files)
