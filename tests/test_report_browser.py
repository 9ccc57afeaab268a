"""The report in a real browser: nothing is loaded, nothing complains, everybody can read it.

Chromium and its driver come from the packages of the distribution (`make browser`), the checks
of accessibility are those of axe-core, whose script the package axe-playwright-python carries.
"""

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simkit as sk
from simkit.plots.report import report_page

from .samples import sample_ensemble, sample_fit
from .test_report import hostile_fit


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="Chromium and chromedriver are not installed: `make browser`, where that works",
)

PHONE = 360
UNFOLD = "document.querySelectorAll('details').forEach(item => { item.open = true; })"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
SECTIONS = {
    "fit": ["Summary", "Parameters", "Figures", "Starts", "Configuration", "Provenance"],
    "ordinary": ["Summary", "Parameters", "Figures", "Solver", "Configuration", "Provenance"],
}
PAGES = {
    "fit": SECTIONS["fit"],
    "hostile": SECTIONS["fit"],
    "failed": SECTIONS["ordinary"],
    "ordinary": SECTIONS["ordinary"],
    "stochastic": SECTIONS["ordinary"],
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of a fit, of ensembles with and without noise, and of hostile texts."""
    generator = np.random.default_rng(4)
    times = np.linspace(0.0, 5.0, 41)
    growth = 0.5 + 0.1 * generator.random(24)
    results = {
        "fit": sample_fit(),
        "hostile": hostile_fit(),
        "failed": sample_ensemble(12),
        "ordinary": sk.simulate(
            sk.systems.LotkaVolterra(), times=times, parameters={"prey_growth": growth}
        ),
        "stochastic": sk.simulate(
            sk.systems.OrnsteinUhlenbeck(),
            times=times,
            method=sk.solvers.EulerMaruyama(step=0.05),
            members=24,
        ),
    }
    folder = tmp_path_factory.mktemp("reports")
    for name, result in results.items():
        (folder / f"{name}.html").write_text(report_page(result), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in results}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless Chromium that writes down what it is asked to load and what it says."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = CHROMIUM or ""
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "--headless=new",
        "--no-sandbox",  # which root may not have
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--disable-background-networking",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(DRIVER))
    # A busy machine is no fault of the page.
    driver.set_page_load_timeout(240)
    driver.set_script_timeout(240)
    yield driver
    driver.quit()


@pytest.fixture(params=PAGES)
def opened(request: pytest.FixtureRequest, browser: Any, pages: dict[str, Path]) -> Any:
    """The browser with a page, on a wide screen in light colours, and the page's name."""
    show(browser, width=1200, scheme="light")
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(pages[request.param].as_uri())
    return browser, request.param


def show(browser: Any, width: int, scheme: str) -> None:
    """The width of the screen in pixels, and light or dark colours."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def requests(browser: Any) -> list[str]:
    """All that was asked for since the last look, images in the page left out."""
    events = [
        json.loads(entry["message"])["message"] for entry in browser.get_log("performance")
    ]
    urls = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    return [url for url in urls if not url.startswith("data:")]


def test_the_page_says_nothing_and_loads_nothing(opened: Any, pages: dict[str, Path]) -> None:
    browser, name = opened
    browser.execute_script(UNFOLD)
    assert browser.get_log("browser") == []
    assert requests(browser) == [pages[name].as_uri()]


def test_the_sections_are_there_and_links_lead_to_them(opened: Any) -> None:
    browser, name = opened
    script = "return [...document.querySelectorAll('h2')].map(item => item.textContent)"
    assert browser.execute_script(script) == PAGES[name]
    shown = browser.execute_script(
        "return [...document.querySelectorAll('nav a')].map(item => {"
        " const box = document.querySelector(item.getAttribute('href'))"
        ".getBoundingClientRect(); return box.width > 0 && box.height > 0; })"
    )
    assert shown == [True] * len(PAGES[name])
    drawn = browser.execute_script(
        "return [...document.querySelectorAll('figure svg')].map(item =>"
        " item.getBoundingClientRect().height)"
    )
    assert len(drawn) >= 1 and all(height > 100 for height in drawn)


def test_a_phone_needs_no_scrolling_sideways(opened: Any) -> None:
    browser, _ = opened
    show(browser, width=PHONE, scheme="light")
    browser.execute_script(UNFOLD)
    assert browser.execute_script("return window.innerWidth") == PHONE
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE


def test_dark_colours_are_dark(opened: Any) -> None:
    browser, _ = opened
    colours = {}
    for scheme in ("light", "dark"):
        show(browser, width=1200, scheme=scheme)
        script = (
            "const style = getComputedStyle(document.body);"
            "return [style.color, style.backgroundColor]"
        )
        colours[scheme] = [lightness(text) for text in browser.execute_script(script)]
    ink, paper = colours["light"]
    assert ink < 0.2 < 0.9 < paper
    ink, paper = colours["dark"]
    assert paper < 0.2 < 0.8 < ink


def lightness(colour: str) -> float:
    """The mean of red, green and blue of `rgb(1, 2, 3)`, from 0 to 1."""
    parts = colour.partition("(")[2].rstrip(")").split(",")[:3]
    return sum(map(float, parts)) / 765


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe-core, of a package that is there for it alone."""
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None or found.origin is None:
        pytest.skip("axe-core is not installed: it comes with axe-playwright-python")
    return Path(found.origin).with_name("axe.min.js").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "scheme", "width", "unfolded"),
    [
        ("fit", "light", 1200, True),
        ("fit", "dark", PHONE, False),
        ("failed", "dark", 1200, False),
        ("ordinary", "dark", 1200, False),
        ("stochastic", "light", PHONE, False),
    ],
)
def test_everybody_can_read_it(browser, pages, axe, name, scheme, width, unfolded) -> None:
    """Contrast of text, names of pictures, order of headings and more, by axe-core.

    Within a picture, which is one thing with a name, there is nothing to look at. All that
    is folded is looked at once, as it takes long.
    """
    show(browser, width=width, scheme=scheme)
    browser.get(pages[name].as_uri())
    if unfolded:
        browser.execute_script(UNFOLD)
    browser.execute_script(axe)
    found = browser.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "axe.run({exclude: ['figure svg > g']}, {runOnly: arguments[0]})"
        ".then(done, error => done(String(error)))",
        RULES,
    )
    assert isinstance(found, dict), found
    told = [
        (rule["id"], [node["html"][:150] for node in rule["nodes"][:2]])
        for rule in found["violations"]
    ]
    assert told == []
    passed = {rule["id"] for rule in found["passes"]}
    assert {"color-contrast", "svg-img-alt", "heading-order", "document-title"} <= passed
