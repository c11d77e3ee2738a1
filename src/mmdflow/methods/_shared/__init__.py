"""What several methods share: saved pipelines, networks, sources, pools of particles, gradients."""
