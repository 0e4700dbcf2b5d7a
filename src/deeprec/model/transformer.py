"""A causal transformer over the events of many users: each event sees itself and what came before.

Norms come before what they feed (pre-norm). Where an event stands enters as a learned bias of the
attention by how many events lie between the two, so that an event says the same whatever follows,
and what is trained in the middle of a history is what is served at its end.

Rows are those of events, without padding; attention alone works on a grid [B, L], whose rows fill
from the left: what is empty lies after what looks back.

Shapes: W events, B users, L events of the longest window, D width, H heads, A = D / H.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deeprec.model.exporting import is_exporting
from deeprec.model.window import Windows

WIDENING = 4  # hidden units of a block's layers, in widths
# what a block keeps for its backward: of an event, widths; of two events and a head, numbers
KEPT_WIDTHS, KEPT_PAIRS = 28, 3


class Transformer(nn.Module):
    """Blocks of attention and layers, one after the other, and a norm.

    Args:
        width: D.
        max_events: longest window.
        num_layers: blocks.
        num_heads: H, of which D is a multiple.
        dropout: chance of dropping each number that a block adds, in training.
    """

    def __init__(
        self, width: int, *, max_events: int, num_layers: int, num_heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [_Block(width, max_events, num_heads, dropout) for _ in range(num_layers)]
        )
        self.norm = nn.LayerNorm(width)
        self.width, self.num_heads = width, num_heads

    def kept_floats(self, events: float, longest: int) -> float:
        """What is kept for the backward of a user with so many events, about.

        Args:
            events: of the user.
            longest: events of the longest window beside it.
        """
        of_events = KEPT_WIDTHS * events * self.width
        return len(self.blocks) * (of_events + KEPT_PAIRS * self.num_heads * longest**2)

    def forward(self, rows_WD: Tensor, windows: Windows) -> Tensor:
        """float32 [W, D].

        Args:
            rows_WD: float32 [W, D], of each event.
            windows: where the events stand.
        """
        for block in self.blocks:
            rows_WD = block(rows_WD, windows)
        hidden_WD: Tensor = self.norm(rows_WD)
        return hidden_WD.float()


class _Block(nn.Module):
    def __init__(self, width: int, max_events: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = _Attention(width, max_events, num_heads)
        self.layers = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, WIDENING * width),
            nn.GELU(),
            nn.Linear(WIDENING * width, width),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, rows_WD: Tensor, windows: Windows) -> Tensor:
        rows_WD = rows_WD + self.dropout(self.attention(rows_WD, windows))
        added_WD: Tensor = self.dropout(self.layers(rows_WD))
        return rows_WD + added_WD


class _Attention(nn.Module):
    def __init__(self, width: int, max_events: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        self.asked = nn.Linear(width, 3 * width)  # queries, keys and values
        self.said = nn.Linear(width, width)
        # of a key so many events back; in rows of distances, as a table of events is read
        self.bias_LH = nn.Parameter(torch.zeros(max_events, num_heads))

    def forward(self, rows_WD: Tensor, windows: Windows) -> Tensor:
        num_users, longest = windows.offsets_B1.shape[0] - 1, windows.longest
        width = rows_WD.shape[1]
        if longest == 0:
            return torch.zeros_like(rows_WD)
        asked_WD = self.asked(self.norm(rows_WD))
        cells = asked_WD.new_zeros([num_users * longest, asked_WD.shape[1]])
        cells = cells.index_copy(0, windows.cells_W, asked_WD)
        heads = [self.num_heads, width // self.num_heads]
        grid = cells.view([num_users, longest, 3] + heads)  # noqa: RUF005  # TorchScript knows no *
        grid = grid.permute(2, 0, 3, 1, 4)
        bias_HLL = self.bias(longest).to(asked_WD.dtype)
        seen_BHLA = attention(grid[0], grid[1], grid[2], bias_HLL)
        seen = seen_BHLA.transpose(1, 2).reshape(num_users * longest, width)
        said_WD: Tensor = self.said(seen.index_select(0, windows.cells_W))
        return said_WD

    def bias(self, longest: int) -> Tensor:
        """float32 [H, L, L], of each event for each other; -inf for those after it."""
        places = torch.arange(longest, device=self.bias_LH.device)
        back_LL = places[:, None] - places
        bias_LLH = self.bias_LH.index_select(0, back_LL.clamp(min=0).flatten())
        bias_HLL = bias_LLH.view(longest, longest, -1).permute(2, 0, 1)
        return bias_HLL.masked_fill(back_LL < 0, float("-inf"))


def attention(asked_BHLA: Tensor, keys_BHLA: Tensor, said_BHLA: Tensor, bias_HLL: Tensor) -> Tensor:
    """float32 [B, H, L, A]: what events say, weighed by how well their keys meet what is asked."""
    if not is_exporting():
        return F.scaled_dot_product_attention(
            asked_BHLA, keys_BHLA, said_BHLA, attn_mask=bias_HLL[None]
        )
    # the same in words that ONNX has, whose exporter mistakes the strides of that function
    met_BHLL = asked_BHLA @ keys_BHLA.transpose(2, 3) / asked_BHLA.shape[3] ** 0.5
    heard_BHLA: Tensor = (met_BHLL + bias_HLL).softmax(3) @ said_BHLA
    return heard_BHLA
