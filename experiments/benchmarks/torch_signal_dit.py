"""The transformer of `SignalDiT` in PyTorch, of the blocks that diffusers publishes.

Encoder, token-wise injection, decoder with cross-attention, adaLN-single modulation and
exact attention, of the same widths. diffusers' block neither normalizes nor modulates
the query of its cross-attention, and has no gate on it; all else is the same work.

Shapes use B batch, N samples, C components, T tokens, P patch, D width.
"""

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import nn

TIME_CHANNELS = 256
# Scale, shift and gate of self-attention and of the feed-forward network.
MODULATIONS = 6


class TorchSignalDiT(nn.Module):
    """Noisy [B, N, C], time [B], condition [B, N, C], scalars [B, K] to [B, N, C]."""

    def __init__(
        self,
        *,
        num_samples,
        channels,
        patch_size,
        embed_dim,
        num_heads,
        mlp_dim,
        encoder_layers,
        decoder_layers,
        num_scalars,
    ):
        super().__init__()
        self.patch_size, self.channels = patch_size, channels
        width, num_tokens = patch_size * channels, num_samples // patch_size
        shared = dict(
            dim=embed_dim,
            num_attention_heads=num_heads,
            attention_head_dim=embed_dim // num_heads,
            activation_fn="gelu-approximate",
            norm_eps=1e-6,
            ff_inner_dim=mlp_dim,
        )
        self.condition_patches = nn.Linear(width, embed_dim)
        self.noisy_patches = nn.Linear(width, embed_dim)
        self.positions = nn.Parameter(0.02 * torch.randn(num_tokens, embed_dim))
        self.encoder = nn.ModuleList(
            BasicTransformerBlock(**shared, norm_type="layer_norm")
            for _ in range(encoder_layers)
        )
        self.encoder_norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.inject = nn.Linear(embed_dim, embed_dim)
        self.decoder = nn.ModuleList(
            BasicTransformerBlock(
                **shared,
                cross_attention_dim=embed_dim,
                norm_type="ada_norm_single",
                norm_elementwise_affine=False,
            )
            for _ in range(decoder_layers)
        )
        self.frequencies = Timesteps(TIME_CHANNELS, True, 0)
        self.time = TimestepEmbedding(TIME_CHANNELS, embed_dim)
        self.scalars = nn.Linear(num_scalars, embed_dim)
        self.modulation = nn.Linear(embed_dim, MODULATIONS * embed_dim)
        self.final_norm = nn.LayerNorm(embed_dim, eps=1e-6, elementwise_affine=False)
        self.final_modulation = nn.Linear(embed_dim, 2 * embed_dim)
        self.out = nn.Linear(embed_dim, width)

    def forward(self, noisy, time, condition, scalars):
        memory = self.condition_patches(self.patches(condition)) + self.positions
        for block in self.encoder:
            memory = block(memory)
        memory = self.encoder_norm(memory)
        embedded = self.time(self.frequencies(1000.0 * time)) + self.scalars(scalars)
        embedded = nn.functional.silu(embedded)
        modulation = self.modulation(embedded)
        x = self.noisy_patches(self.patches(noisy)) + self.positions
        x = x + self.inject(memory)
        for block in self.decoder:
            x = block(x, encoder_hidden_states=memory, timestep=modulation)
        shift, scale = self.final_modulation(embedded)[:, None].chunk(2, dim=-1)
        x = self.out(self.final_norm(x) * (1 + scale) + shift)
        return self.unpatch(x, noisy.shape)

    def patches(self, waveform):
        """[B, N, C] to [B, T, C P]."""
        x = waveform.unflatten(1, (-1, self.patch_size))
        return x.transpose(2, 3).flatten(2)

    def unpatch(self, x, shape):
        x = x.unflatten(2, (self.channels, self.patch_size))
        return x.transpose(2, 3).reshape(shape)
