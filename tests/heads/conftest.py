import pytest
import torch
from small_heads import C, D, N


@pytest.fixture
def context():
    return torch.randn(N, C, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def target():
    return torch.randn(N, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
