"""Report: what people read. Results come from pipeline/results; no framework is imported.

document.py   writes build/report.html (one file, opens offline), build/report.md and build/results.json
terminal.py   tables and lines at a terminal
page.py       sections, and how they render to HTML (template.html) and Markdown
summary.py    the smallest and the fastest file whose accuracy drop is below the margin
tables.py     all results, output differences, what was not measured, export parity, warnings
threads.py    several threads compared with one
charts.py     accuracy against cost, file sizes, accuracy drop by class; figures.py draws them with Plotly
origins.py    devices, tool versions and method
groups.py     rows grouped by model and by device
"""
