"""Judgements: what people or official files said of pairs."""
