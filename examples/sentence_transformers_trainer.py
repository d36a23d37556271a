"""Fine-tune a CLIP model with CUSA's loss in the trainer of sentence-transformers.

    python examples/sentence_transformers_trainer.py WORK MODEL OUT [--steps 1000] [--batch 64]

WORK is a work folder whose train split has an image and a text teacher (`cusa extract-teachers`), MODEL a hub name or a
folder that sentence-transformers loads and that embeds texts and images: sentence-transformers/clip-ViT-B-32, or
openai/clip-vit-base-patch32.
"""

import argparse

from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments

import cusa
from cusa.integrations.sentence_transformers import CUSALoss, pairs


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Train, save the model, and return the last logged figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("work", "model", "out"):
        parser.add_argument(name)
    parser.add_argument("--image", default="", help="The image teacher; the only one if not given.")
    parser.add_argument("--text", default="", help="The text teacher, likewise.")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    options = parser.parse_args(arguments)

    model = SentenceTransformer(options.model, device="cpu" if options.device == "cpu" else None)
    teachers = cusa.teacher_rows(options.work, split="train", image=options.image, text=options.text)
    training = SentenceTransformerTrainingArguments(
        output_dir=options.out,
        max_steps=options.steps,
        per_device_train_batch_size=options.batch,
        learning_rate=options.lr,
        logging_steps=max(1, options.steps // 20),
        save_strategy="no",
        report_to="none",
        use_cpu=options.device == "cpu",
    )
    loss = CUSALoss(model, teachers, objective=cusa.CUSALoss(alpha=0.1, beta=0.5))
    trainer = SentenceTransformerTrainer(model=model, args=training, train_dataset=pairs(teachers), loss=loss)
    trainer.train()
    model.save(options.out)
    logged: dict[str, float] = [row for row in trainer.state.log_history if "loss" in row][-1]
    return logged


if __name__ == "__main__":
    print(main())
