"""Croissant metadata: every file with its digest, and a field for each column of Parquet."""

from cusa.pipeline.publish import croissant
from cusa.pipeline.publish.parquet import SCHEMA
from tests.pipeline.publish.test_card import facts, split

FILES = {
    "train": [("data/train-0.parquet", "ab" * 32, 70), ("data/train-1.parquet", "cd" * 32, 80)],
    "val": [],
    "test": [("data/test-0.parquet", "ef" * 32, 90)],
}


def test_metadata__of_parquet_has_files_sets_and_fields() -> None:
    made = facts(split(), split("test"), licence="CC0", homepage="https://a.example")
    told = croissant.metadata(made, FILES, encoding="application/x-parquet")
    assert (told["name"], told["license"], told["url"]) == ("mini", "CC0", "https://a.example")
    assert told["description"] == "Mini: 2,400 images with captions."
    assert told["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    every = [one for of_split in FILES.values() for one in of_split]
    assert told["distribution"][:3] == [
        {
            **{"@type": "cr:FileObject", "@id": path, "name": path, "contentUrl": path, "contentSize": f"{size} B"},
            **{"encodingFormat": "application/x-parquet", "sha256": sha256},
        }
        for path, sha256, size in every
    ]
    assert told["distribution"][3:] == [
        {
            **{"@type": "cr:FileSet", "@id": f"{name}-files", "name": f"{name}-files"},
            "containedIn": [{"@id": path} for path, _, _ in FILES[name]],
            **{"encodingFormat": "application/x-parquet", "includes": f"data/{name}-*.parquet"},
        }
        for name in ("train", "test")
    ]
    assert [(one["@id"], one["name"], one["key"]) for one in told["recordSet"]] == [
        (name, name, {"@id": f"{name}/key"}) for name in ("train", "test")
    ]
    kinds = {"image": "sc:ImageObject", "width": "sc:Integer", "height": "sc:Integer"}
    for records in told["recordSet"]:
        name = records["@id"]
        fields = {field["name"]: field for field in records["field"]}
        assert {"image", "captions", "key", "caption_keys", "caption_sources"} <= fields.keys() <= {*SCHEMA.names}
        for column, field in fields.items():
            lists = column.startswith("caption")
            how = {"transform": {"jsonPath": "bytes"}} if column == "image" else {}
            assert field == {
                **{"@type": "cr:Field", "@id": f"{name}/{column}", "name": column},
                "dataType": kinds.get(column, "sc:Text"),
                "source": {"fileSet": {"@id": f"{name}-files"}, "extract": {"column": column}, **how},
                **({"repeated": True} if lists else {}),
            }


def test_metadata__of_tars_has_files_alone_and_no_licence_that_nobody_stated() -> None:
    told = croissant.metadata(facts(split()), FILES, encoding="application/x-tar")
    assert [one["encodingFormat"] for one in told["distribution"]] == ["application/x-tar"] * 3
    assert told["recordSet"] == []
    assert not {"license", "url"} & told.keys()


def test_metadata__its_words_are_those_of_the_vocabulary() -> None:
    """As Croissant 1.0 gives the context: each term under its own name, but for these."""
    context = dict(croissant.metadata(facts(split()), {}, encoding="application/x-tar")["@context"])
    apart = {
        **{"@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/"},
        **{"cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/"},
        **{"dct": "http://purl.org/dc/terms/", "conformsTo": "dct:conformsTo"},
        **{name: {"@id": f"cr:{name}", "@type": "@json"} for name in ("data", "examples")},
        "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    }
    assert {name: context.pop(name) for name in apart} == apart
    assert context == {name: f"cr:{name}" for name in context}
    used = {
        "recordSet",
        "field",
        "source",
        "fileSet",
        "extract",
        "column",
        "transform",
        "jsonPath",
        "repeated",
        "includes",
    }
    assert used <= context.keys()
