"""What other programs' configuration means for us (pure): containerd's `config.toml`, CRI-O's
`crio.conf`, containers' `registries.conf`, k3s' `registries.yaml`.

One file for each kind reads what it knows into a `Migration`; what it cannot carry over is listed
there with the reason.
"""

from cri_imaged.config.migrate.kinds import migrate
from cri_imaged.config.migrate.migration import Left, Migration

__all__ = ["Left", "Migration", "migrate"]
