"""bluemask: pixel-accurate pseudo-labels for surface defects from image-level labels."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

# An application that runs from its checkout: the folders beside this file are importable to it alone.
ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))
PREFECT = {
    **dict.fromkeys(("PREFECT_LOGGING_LEVEL", "PREFECT_SERVER_LOGGING_LEVEL"), "CRITICAL"),
    **dict.fromkeys(("PREFECT_SERVER_ANALYTICS_ENABLED", "PREFECT_CLI_WRAP_LINES"), "false"),
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "DO_NOT_TRACK": "1",  # what its client calls the server's analytics
}
os.environ.update(PREFECT | os.environ)  # read when it is first imported; what the user has set stays

import typer

app = typer.Typer(
    name="bluemask",
    help="Turn a folder of surface images, of which only the defect's class is known, into pixel-accurate labels.",
    epilog="Start with: bluemask demo, or bluemask init FOLDER --out CONFIG --store DIR",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)

ConfigPath = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="YAML config, as `bluemask init` writes it.")
]
StorePath = Annotated[
    Path, typer.Argument(metavar="STORE", help="The store's folder (`store` in the config).")
]


@app.command(epilog="Example: bluemask init photos/ --out photos.yaml --store photos.store")
def init(
    folder: Annotated[
        Path, typer.Argument(help="Image folder: a folder per class, or one with a labels.csv.")
    ],
    out: Annotated[Path, typer.Option(help="The config file to write.")],
    store: Annotated[Path, typer.Option(help="Where arrays and labels will lie.")],
    labels: Annotated[Path | None, typer.Option(help="Labels CSV elsewhere than FOLDER/labels.csv.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a config that is there.")] = False,
) -> None:
    """Look at an image folder, say what is in it, and write a commented config that runs as it is."""
    from flows.initialise import initialise

    initialise(folder, out=out, store=store, labels=labels, force=force)


@app.command(epilog="Example: bluemask run photos.yaml")
def run(config: ConfigPath) -> None:
    """Bring the labels up to date: redo what is new, changed or failed, and nothing else.

    Exit status: 0 all done; 1 something failed (run again to go on); 2 wrong input; 3 done, but some
    images could not be read, or bear marks that do not fit.
    """
    from rich.console import Console

    from flows.begin import run_config
    from flows.summary import print_summary

    summary = run_config(config, Console(stderr=True))
    print_summary(summary, Console())
    raise typer.Exit(summary.exit_code)


@app.command(epilog="Example: bluemask plan photos.yaml")
def plan(config: ConfigPath) -> None:
    """Say what a run would do now, and why; nothing is written."""
    from rich.console import Console

    from flows.forecast import print_plan

    print_plan(config, Console(), Console(stderr=True))


@app.command(epilog="Example: bluemask rerun photos.store --stage mask --failed")
def rerun(
    store: StorePath,
    stage: Annotated[str, typer.Option(help="The stage to do again, such as mask.")],
    failed: Annotated[bool, typer.Option("--failed", help="Only blocks on which it failed.")] = False,
    images: Annotated[
        list[str] | None, typer.Option(help="Only blocks with this image; may be given several times.")
    ] = None,
) -> None:
    """Do one stage again, with the config of the last run, and what depends on it where its content changes."""
    from rich.console import Console

    from flows.rerun import rerun_stage
    from flows.summary import print_summary

    summary = rerun_stage(store, stage, Console(stderr=True), failed=failed, images=images or ())
    print_summary(summary, Console())
    raise typer.Exit(summary.exit_code)


@app.command(epilog="Example: bluemask verify photos.store --repair")
def verify(
    store: StorePath,
    repair: Annotated[bool, typer.Option("--repair", help="Make anew what is damaged.")] = False,
) -> None:
    """Read everything again and hold it against receipts and digests. Exit status: 0 sound, 1 damaged."""
    from rich.console import Console

    from flows.upkeep import verify_store

    raise typer.Exit(verify_store(store, Console(), repair=repair))


@app.command(epilog="Example: bluemask prune photos.store --nights 7 --quota 200")
def prune(
    store: StorePath,
    nights: Annotated[
        int | None, typer.Option(min=0, help="Days for which replaced arrays stay; else the config's.")
    ] = None,
    quota: Annotated[
        float | None, typer.Option(min=0, help="Most space for the store, in GB; else the config's.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Free space: what no receipt names, what was replaced long ago, what can be made anew. Labels never go."""
    from rich.console import Console

    from flows.upkeep import print_pruning

    raise typer.Exit(print_pruning(store, Console(), nights=nights, quota_gb=quota, dry=dry_run))


@app.command(epilog="Example: bluemask rollback photos.store vit")
def rollback(
    store: StorePath,
    network: Annotated[str, typer.Argument(help="`vit` or `fusion`.")],
) -> None:
    """Take the last promoted network back; the one before takes its place, and this one is not trained again."""
    from rich.console import Console

    from flows.upkeep import roll_back

    roll_back(store, network, Console())


@app.command(epilog="Example: bluemask status photos.store")
def status(store: StorePath) -> None:
    """Show who is writing, how far that is, and how every stage stands: blocks fresh, stale, failed, missing, and why."""
    from rich.console import Console

    from flows.summary import print_status

    print_status(store, Console())


@app.command(epilog="Example: bluemask evaluate photos.store --masks photos-masks/")
def evaluate(
    store: StorePath,
    masks: Annotated[
        Path, typer.Option(help="Label PNGs (0 background, k a class, 255 ignore), paired by name.")
    ],
    json: Annotated[bool, typer.Option("--json", help="Print numbers for programs.")] = False,
) -> None:
    """Score P1, P1°, P2, P2° and P against ground truth: ACC, IoU of each class, mIoU."""
    from rich.console import Console

    from flows.outputs import print_scores

    print_scores(store, masks, Console(), as_json=json)


@app.command(epilog="Example: bluemask export photos.store labels/ --format voc --split 0.9,0.1")
def export(
    store: StorePath,
    out: Annotated[Path, typer.Argument(help="Folder to write to; it is made.")],
    kind: Annotated[
        str,
        typer.Option(
            "--format",
            help="png, voc, mmseg, hf, fiftyone, coco, coco-semantic, yolo, cvat, label-studio, npz or png16.",
        ),
    ] = "png",
    images: Annotated[
        str | None,
        typer.Option(help="copy, link or none: whether the images lie beside their labels; by format."),
    ] = None,
    reviewed: Annotated[bool, typer.Option("--reviewed", help="Only accepted or corrected labels.")] = False,
    outdated: Annotated[
        bool,
        typer.Option("--outdated", help="Also labels of an earlier run, if image and class are the same."),
    ] = False,
    confidence: Annotated[
        float, typer.Option(min=0, max=1, help="Pixels of P below this confidence become 255.")
    ] = 0.0,
    classes: Annotated[str, typer.Option(help="Only these classes, with commas; others become 255.")] = "",
    split: Annotated[str, typer.Option(help="Shares of train, val, test; an image's content decides.")] = "1",
    which: Annotated[
        str, typer.Option("--map", help="p, p1 (CAM) or p2 (SAM), where no mask was drawn.")
    ] = "p",
) -> None:
    """Write the labels that count (a corrected mask, else P) in a format that trainers and annotators read.

    Rejected labels, and those marked as in need of correction, are left out.
    """
    from rich.console import Console

    from flows import exporting, selection

    if images not in (None, "copy", "link", "none"):
        raise typer.BadParameter(f"{images!r}: expected copy, link or none", param_hint="--images")
    names = tuple(name.strip() for name in classes.split(",") if name.strip())
    choice = selection.Choice(reviewed, confidence, names, selection.split_of(split), outdated, which)
    exporting.export_store(store, out, Console(stderr=True), kind=kind, images=images, choice=choice)  # type: ignore[arg-type]


@app.command("import", epilog="Example: bluemask import photos.store annotations.zip --format cvat")
def import_(
    store: StorePath,
    file: Annotated[Path, typer.Argument(help="What the annotation tool exported.")],
    kind: Annotated[
        str, typer.Option("--format", help="cvat (Segmentation mask 1.1) or label-studio (JSON).")
    ],
    accept: Annotated[
        bool, typer.Option("--accept-unchanged", help="Take a mask that was left as it was for accepted.")
    ] = False,
) -> None:
    """Take corrected masks back from an annotation tool: each stands in P's place from then on."""
    from rich.console import Console

    from flows.importing import import_masks

    import_masks(store, file, Console(stderr=True), kind=kind, accept=accept)


@app.command(epilog="Example: bluemask show photos.store scratch/0031.png --out 0031.png")
def show(
    store: StorePath,
    image: Annotated[str, typer.Argument(help="The image's path, relative to the image folder.")],
    out: Annotated[Path, typer.Option(help="The PNG to write.")],
) -> None:
    """Draw one image's way through the method: views, masks, mean, entropy, CAM, prompts, P1, P2, P."""
    from flows.outputs import show_images

    show_images(store, [image], out)
    typer.echo(f"wrote {out}")


@app.command(epilog="Example: bluemask browse photos.store")
def browse(
    store: StorePath,
    host: Annotated[
        str, typer.Option(help="Address to listen at; any but this machine's own asks for a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any that is free.")] = 8650,
    masks: Annotated[
        Path | None, typer.Option(help="Folder of label PNGs to compare with, paired by name.")
    ] = None,
    show: Annotated[bool, typer.Option("--show/--no-show", help="Open the browser.")] = True,
) -> None:
    """Look at every label and at why it is so, review it, and correct it, in the browser."""
    from flows.browse import browse as serve

    serve(store, host=host, port=port, masks=masks, show=show)


@app.command(epilog="Example: bluemask report photos.store --out night.html")
def report(
    store: StorePath,
    out: Annotated[Path | None, typer.Option(help="HTML file; report.html in the store by default.")] = None,
) -> None:
    """Write one HTML file to mail: most and least doubtful images, distributions, tables by class, drift."""
    from flows.report import write_report

    typer.echo(f"wrote {write_report(store, out)}")


@app.command(epilog="Example: bluemask synth bluefilm")
def synth(
    folder: Annotated[Path, typer.Argument(help="New folder for images/ and masks/.")],
    count: Annotated[int, typer.Option(min=1, help="Images of each class, and good ones.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Of the set; another seed draws other images.")] = 0,
    side: Annotated[int, typer.Option(min=64, max=2048, help="Pixels along an image's side.")] = 200,
) -> None:
    """Draw the blue-film set: scratch, foam, indentation, foreign object and good film, with exact masks.

    Fewer images are the first of more. Exit status 1: the whole set's digest is not the one on record.
    """
    from flows.synthesise import synthesise

    raise typer.Exit(synthesise(folder, count=count, seed=seed, side=side))


@app.command(epilog="Example: bluemask demo --out demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for images, store and picture.")] = Path("demo"),
) -> None:
    """Show the whole method at work on a small set of blue film, with scores and one picture."""
    from flows.demonstrate import demonstrate

    raise typer.Exit(demonstrate(out))


@app.command(hidden=True)
def write_reference(path: Annotated[Path, typer.Argument(help="The Markdown file to write.")]) -> None:
    """Write the page on every command; `make docs` calls it."""
    from flows.reference import write_reference as write

    write(app, path)


def main() -> None:
    """Entry point: errors that a user can mend are one sentence, without a traceback."""
    try:
        app()
    except Exception as error:
        if not _is_for_the_user(error) or os.environ.get("BLUEMASK_TRACEBACK"):
            raise
        typer.secho(f"bluemask: {error}", fg="red", err=True)
        raise SystemExit(2 if isinstance(error, ValueError | OSError) else 1) from error
    except SystemExit as end:
        _leave_without_server(end.code)
        raise


def _leave_without_server(code: object) -> None:
    """Where Prefect's server went away, Prefect's threads would wait for it without end; the work is done."""
    server = sys.modules.get("flows.server")
    if server is not None and server.gone:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def _is_for_the_user(error: Exception) -> bool:
    """Whether an error says what to do: it was raised by our own code, or names a file of the user's."""
    if isinstance(error, OSError):
        return True
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    where = Path(last.tb_frame.f_code.co_filename) if last else Path()
    ours = [ROOT / name for name in ("storage", "tasks", "models", "flows", "viewer")]
    return isinstance(error, ValueError | RuntimeError) and any(map(where.is_relative_to, ours))


if __name__ == "__main__":
    main()
