"""Write the generated parts of the documentation: `python docs/generate.py`.

Whole pages stand in docs/reference; parts of other pages stand between the lines
`<!-- generated: NAME -->` and `<!-- end -->`. All of it is committed, and a test fails
where it is behind the code. With `--check` nothing is written, and the exit code is 1 if
something is behind.
"""

import sys
from pathlib import Path

from generation.pages import stale_pages


DOCS = Path(__file__).resolve().parent


def main() -> int:
    """Write, or with `--check` name, the pages that are behind the code."""
    checking = "--check" in sys.argv[1:]
    stale = stale_pages(DOCS)
    for page, text in stale.items():
        print(f"{page.relative_to(DOCS.parent)} is behind the code" if checking else page.name)
        if not checking:
            page.parent.mkdir(exist_ok=True)
            page.write_text(text, encoding="utf-8")
    return 1 if checking and stale else 0


if __name__ == "__main__":
    sys.exit(main())
