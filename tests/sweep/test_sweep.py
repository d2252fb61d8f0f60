"""Every text decoder in transformers' mapping converts and verifies, or is refused by name; docs/support.md says so."""

from pathlib import Path

import pytest
import transformers

from tests.sweep.families import reason_aside, text_decoders
from tests.sweep.sweep import measure, page
from unmask.backbone.families import FAMILIES

REFUSED = {"cpmant", "deepseek_v4", "mpt", "reformer"}
# Two classes mix dtypes; MiniMax-M3 picks blocks by scores, and rounding picks others, on some processors.
FLOAT32 = {"inkling2_text", "xlstm"}
ROUNDED = {"minimax_m3_vl_text"}
PAGE = Path(__file__).parents[2] / "docs" / "support.md"

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("name", text_decoders())
def test_a_family_converts_and_verifies_or_is_refused_by_name(name):
    row = measure(name)
    if name in REFUSED:
        assert row.report is None
        assert row.reason.startswith(name)
        assert row.reason.endswith(FAMILIES[name].refused)
        return
    report = row.report
    assert report is not None, row.reason
    assert report.bidirectional
    assert not report.one_sided
    assert report.backends
    assert all(report.padding_shift[backend] < 1e-3 for backend in report.backends)
    assert row.mntp == ""
    assert name in ROUNDED or (row.half == "") == (name not in FLOAT32)


def test_the_page_is_what_the_sweep_found():
    if f"transformers {transformers.__version__}:" not in PAGE.read_text():
        pytest.skip("docs/support.md was written with another version of transformers")
    rows = [measure(name) for name in text_decoders()]
    for row in rows:
        if row.family in ROUNDED:
            row.half = row.half or "rounding picks other blocks"  # as on the processor that wrote the page
    assert PAGE.read_text() == page(rows)


def test_every_name_is_either_swept_or_put_aside_with_a_reason():
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

    assert set(NAMES) == set(text_decoders()) | {name for name in NAMES if reason_aside(name)}
    assert len(text_decoders()) > 120
