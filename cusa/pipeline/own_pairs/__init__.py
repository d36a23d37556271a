"""The data set's own pairs: which captions do not belong to their image, and which pictures and captions are faulty."""
