"""What `cusa eval` evaluates: a model, on data, in units of work."""
