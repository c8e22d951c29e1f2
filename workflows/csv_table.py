"""Tables as CSV for spreadsheets: UTF-8, a comma, a line per row, nothing that is computed when opened."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import cast

import pyarrow as pa
import pyarrow.csv as pcsv

from coverslip.atomic import replacing
from coverslip.ruo import RUO

# A spreadsheet computes what begins with one of these, in either width (OWASP, "CSV Injection").
STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def plain_cell(text: str) -> str:
    """For a cell of a CSV file: shown as it is, never computed. Blanks before such a sign do not help.

    >>> plain_cell("=1+1"), plain_cell(" @x"), plain_cell("3+"), plain_cell("case 1")
    ("'=1+1", "' @x", '3+', 'case 1')
    """
    return f"'{text}" if text.startswith(STARTS) or text.lstrip().startswith(STARTS) else text


def write_csv(path: str | os.PathLike[str], batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> int:
    """Write batches as they come, none kept; returns how many rows.

    `schema`: of numbers and text; lists are refused. Texts are made plain by `plain_cell`. The last column
    is empty, and its name is the research-use sentence: every reader of CSV opens such a file.
    """
    texts = {field.name for field in schema if pa.types.is_string(field.type)}
    wide = pa.schema([*((plain_cell(field.name), field.type) for field in schema), (RUO, pa.string())])
    rows = 0
    with replacing(path) as part, pcsv.CSVWriter(os.fspath(part), wide) as writer:
        for batch in batches:
            columns = [_plain(batch[name]) if name in texts else batch[name] for name in schema.names]
            writer.write_batch(pa.record_batch([*columns, pa.nulls(len(batch), pa.string())], schema=wide))
            rows += len(batch)
    return rows


def _plain(texts: pa.Array) -> pa.Array:
    """Each distinct text once: a class name stands in a million rows."""
    coded = cast(pa.DictionaryArray, texts.dictionary_encode())
    plain = [None if text is None else plain_cell(text) for text in coded.dictionary.to_pylist()]
    return pa.array(plain, pa.string()).take(coded.indices)
