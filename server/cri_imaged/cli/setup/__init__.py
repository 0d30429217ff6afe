"""What `cri-imaged setup` changes in the configuration of others, and in ours."""
