"""What the node brings in before anybody asks for it: archives of a folder, a list of images."""
