"""What a data set of any size takes: time, bytes, memory and money, by measured rates."""
