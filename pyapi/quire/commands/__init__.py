"""The commands of `quire`: each module has USAGE, add_flags(parser) and run(options), and is imported only to run."""
