"""Metadata in the Croissant vocabulary, which search engines and data loaders read (MLCommons Croissant 1.0)."""

from collections.abc import Mapping, Sequence
from typing import Any

from cusa.pipeline.publish.facts import Facts

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}

_COLUMNS = {
    "image": ("sc:ImageObject", False),
    "captions": ("sc:Text", True),
    "key": ("sc:Text", False),
    "caption_keys": ("sc:Text", True),
    "caption_sources": ("sc:Text", True),
    "label": ("sc:Text", False),
    "source": ("sc:Text", False),
    "width": ("sc:Integer", False),
    "height": ("sc:Integer", False),
}
"""Column -> its type, and whether it holds a list."""


def metadata(facts: Facts, files: Mapping[str, Sequence[tuple[str, str, int]]], *, encoding: str) -> dict[str, Any]:
    """Return the metadata of an export.

    Args:
        facts: of the work folder.
        files: split -> its files: path in the export, SHA-256, bytes.
        encoding: MIME type of the files. Fields are described where they are Parquet.
    """
    described: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": facts.name,
        "description": f"{facts.title}: {facts.images:,} images with captions.",
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": path,
                "name": path,
                "contentUrl": path,
                "contentSize": f"{size} B",
                "encodingFormat": encoding,
                "sha256": sha256,
            }
            for of_split in files.values()
            for path, sha256, size in of_split
        ],
        "recordSet": [],
    }
    if facts.licence:
        described["license"] = facts.licence
    if facts.homepage:
        described["url"] = facts.homepage
    if encoding != "application/x-parquet":
        return described
    for split, of_split in files.items():
        if not of_split:
            continue
        name = f"{split}-files"
        described["distribution"].append(
            {
                "@type": "cr:FileSet",
                "@id": name,
                "name": name,
                "containedIn": [{"@id": path} for path, _, _ in of_split],
                "encodingFormat": encoding,
                "includes": f"data/{split}-*.parquet",
            }
        )
        described["recordSet"].append(
            {
                "@type": "cr:RecordSet",
                "@id": split,
                "name": split,
                "key": {"@id": f"{split}/key"},
                "field": [_field(split, name, column) for column in _COLUMNS],
            }
        )
    return described


def _field(split: str, files: str, column: str) -> dict[str, Any]:
    kind, repeated = _COLUMNS[column]
    source: dict[str, Any] = {"fileSet": {"@id": files}, "extract": {"column": column}}
    if column == "image":
        source["transform"] = {"jsonPath": "bytes"}
    described = {"@type": "cr:Field", "@id": f"{split}/{column}", "name": column, "dataType": kind, "source": source}
    return {**described, "repeated": True} if repeated else described
