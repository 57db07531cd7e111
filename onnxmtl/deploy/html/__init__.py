"""``onnxmtl report``: a run as one HTML file, and its figures as SVG. No script, nothing fetched, no torch."""

from onnxmtl.deploy.html.writing import Written, as_json, figures_of, html_of, write_html

__all__ = ["Written", "as_json", "figures_of", "html_of", "write_html"]
