"""The stages: each takes frames and tables and gives frames, tables and files. They never import each other."""
