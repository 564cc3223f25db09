"""A causal language model with PyTorch's exact attention, of the widths of ours.

Pre-norm blocks, rotary positions, a GEGLU feed-forward network and tied embeddings, as
`PerformerLM` with the same fields; only the attention is another.

Shapes use B batch, T length, D width, H heads, K head width, V vocabulary.
"""

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """Attention and feed-forward network, each around its own residual."""

    def __init__(self, embed_dim, num_heads, mlp_dim):
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(embed_dim)
        self.mlp_norm = nn.LayerNorm(embed_dim)
        self.heads = nn.Linear(embed_dim, 3 * embed_dim, bias=False)
        self.out = nn.Linear(embed_dim, embed_dim, bias=False)
        self.up = nn.Linear(embed_dim, 2 * mlp_dim)
        self.down = nn.Linear(mlp_dim, embed_dim)

    def forward(self, x, cosine, sine):
        batch, length, width = x.shape
        heads = self.heads(self.attention_norm(x))
        heads = heads.view(batch, length, 3, self.num_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # B H T K each
        mixed = functional.scaled_dot_product_attention(
            rotate(query, cosine, sine),
            rotate(key, cosine, sine),
            value,
            is_causal=True,
        )
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        gate, up = self.up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(functional.gelu(gate) * up)


class SoftmaxLM(nn.Module):
    """Ids [B, T] to logits [B, T, V]."""

    def __init__(self, *, vocab_size, embed_dim, num_heads, mlp_dim, num_layers):
        super().__init__()
        self.head_dim = embed_dim // num_heads
        self.embed = nn.Embedding(vocab_size, embed_dim)
        nn.init.normal_(self.embed.weight, std=0.5 * embed_dim**-0.5)
        self.layers = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_dim) for _ in range(num_layers)
        )
        self.final_norm = nn.LayerNorm(embed_dim)

    def forward(self, tokens):
        cosine, sine = angles(tokens.shape[1], self.head_dim)
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, cosine, sine)
        return self.final_norm(x) @ self.embed.weight.T


def angles(length, head_dim):
    """Cosine and sine of the rotary angles (Su et al., 2021), [T, K / 2] each."""
    frequencies = 10000.0 ** (-torch.arange(0, head_dim, 2) / head_dim)
    turned = torch.arange(length)[:, None] * frequencies
    return turned.cos(), turned.sin()


def rotate(x, cosine, sine):
    """Turns the halves of [B, H, T, K] against each other."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat(
        (first * cosine - second * sine, second * cosine + first * sine), dim=-1
    )
