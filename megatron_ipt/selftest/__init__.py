"""A test of the machines, the network and the file system that runs will use, with a verdict for each part."""
