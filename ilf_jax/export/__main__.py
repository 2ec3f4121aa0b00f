"""python -m ilf_jax.export: see `ilf_jax.export.export_command`."""

from absl import app

from ilf_jax.export.export_command import main

if __name__ == "__main__":
    app.run(main)
