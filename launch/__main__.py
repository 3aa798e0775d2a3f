"""``python -m launch``: see `launch.main`."""

import sys

from launch.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
