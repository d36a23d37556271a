"""The names of the teachers."""

CATALOGUE = {
    "unicom-vit-b-32": "images; the paper's Unicom, 512 numbers; the authors' file, by --weights or downloaded",
    "unicom-vit-b-32-tokens": "images; its flattened patch tokens, 37,632 numbers: what the paper's figures used",
    "unicom-vit-b-16": "images; Unicom, 768 numbers",
    "unicom-vit-b-16-tokens": "images; its flattened patch tokens, 150,528 numbers",
    "unicom-vit-l-14": "images; Unicom, 768 numbers",
    "unicom-vit-l-14-tokens": "images; its flattened patch tokens, 262,144 numbers",
    "unicom-vit-l-14-336": "images of 336 pixels; Unicom, 768 numbers",
    "unicom-vit-l-14-336-tokens": "images of 336 pixels; its flattened patch tokens, 589,824 numbers",
    "facebook/dinov2-base": "images; like any Hugging Face vision model with a pooled output (DINOv2/v3, MLCD, SigLIP)",
    "all-mpnet-base-v2": "texts; the paper's Sentence-BERT, like any sentence-transformers hub name or folder",
    "sentence-transformers/clip-ViT-B-32": "images and texts; like any sentence-transformers model that reads both",
    "module:Class": "images or texts; a Python class of yours with name, modality, width, encode and provenance",
    "offline-gist": "images; colours and edge directions on a grid, no weights: as good as pixels",
    "offline-ngrams": "texts; hashed words and letter groups, no weights: as good as spelling",
    "offline-scenes-image": "images of `scenes`; a small frozen encoder of what is shown, shipped with the package",
    "offline-scenes-text": "texts of `scenes`; a small frozen encoder of what is claimed, shipped with the package",
}
"""Teachers by name, and what each reads. Features made elsewhere come in by `extract-teachers --import`."""
