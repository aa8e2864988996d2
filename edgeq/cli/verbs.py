"""The verbs: each reads its flags, makes one library call and shows what came back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeq.cli import build, compare, flags, plan, report, serve, show
from edgeq.cli.settings import Settings, override, read_settings
from edgeq.cli.verdicts import exit_code
from edgeq.cli.watch import watching
from edgeq.core.report import Report
from edgeq.errors import (
    EXIT_BAD_INPUT,
    EXIT_DONE,
    EXIT_RUNTIME_UNAVAILABLE,
)

app = typer.Typer(
    help="Quantize a model, lower it for a device, and prove the bundle in its real runtime.",
    epilog="Exit codes: 0 done and passed, 1 a gate failed, 2 usage, 3 runtime not available, "
    "4 unsafe or corrupt input, 5 internal error.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _edgeq(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        from edgeq import __version__

        show.line(f"edgeq {__version__}")
    elif context.invoked_subcommand is None:
        show.line(context.get_help())


@app.command()
def export(
    *,
    model: flags.Model = None,
    target: flags.Target = None,
    bits: flags.Bits = None,
    method: flags.Method = None,
    effort: flags.Effort = None,
    calibration: flags.Calibration = None,
    group_size: flags.GroupSize = None,
    symmetric: flags.Symmetric = None,
    embedding_bits: flags.EmbeddingBits = None,
    format: flags.FormatName = None,
    task: flags.TaskName = None,
    accuracy_level: flags.AccuracyLevel = None,
    evaluation: flags.Evaluation = None,
    tokenizer: flags.TokenizerPlace = None,
    max_memory: flags.MaxMemory = None,
    max_drift: flags.MaxDrift = None,
    max_size: flags.MaxSize = None,
    recipe: flags.RecipeFile = None,
    output: flags.OutputOrName = None,
    no_validate: flags.NoValidate = False,
    json: flags.Json = False,
    force: flags.Force = False,
) -> int:
    """Turn a model into a bundle that was run, measured and compared."""
    settings = override(read_settings(Path()), locals())
    return _finish(*_export(settings, validate=not no_validate, force=force), json=json)


@app.command()
def quantize(
    *,
    model: flags.Model = None,
    output: flags.Output,
    target: flags.Target = None,
    bits: flags.Bits = None,
    method: flags.Method = None,
    effort: flags.Effort = None,
    calibration: flags.Calibration = None,
    group_size: flags.GroupSize = None,
    symmetric: flags.Symmetric = None,
    embedding_bits: flags.EmbeddingBits = None,
    format: flags.FormatName = None,
    task: flags.TaskName = None,
    max_memory: flags.MaxMemory = None,
    max_drift: flags.MaxDrift = None,
    max_size: flags.MaxSize = None,
    recipe: flags.RecipeFile = None,
    json: flags.Json = False,
    force: flags.Force = False,
) -> int:
    """Quantize a model into a store, from which any format can be lowered."""
    settings = override(read_settings(Path()), locals())
    from edgeq import inspection, pipeline

    with watching() as progress:
        store = pipeline.quantize(
            settings.model,
            output=output,
            target=settings.target,
            bits=settings.bits,
            method=settings.method,
            effort=settings.effort,
            calibration=settings.calibration,
            group_size=settings.group_size,
            symmetric=settings.symmetric,
            embedding_bits=settings.embedding_bits,
            format=settings.format,
            task=settings.task,
            max_memory=settings.max_memory,
            max_drift=settings.max_drift,
            max_size=settings.max_size,
            recipe=settings.recipe,
            force=force,
            progress=progress,
        )
    show.facts(inspection.of_store(store), json=json)
    return EXIT_DONE


@app.command()
def lower(
    *,
    store: Annotated[Path, typer.Argument(help="What `edgeq quantize` wrote.")],
    output: flags.Output,
    target: flags.Target = None,
    format: flags.FormatName = None,
    tokenizer: flags.TokenizerPlace = None,
    no_validate: flags.NoValidate = False,
    json: flags.Json = False,
    force: flags.Force = False,
) -> int:
    """Turn a store into a bundle."""
    from edgeq import pipeline

    settings = override(read_settings(Path()), {"target": target, "format": format, "tokenizer": tokenizer})
    with watching() as progress:
        report = pipeline.lower(
            store,
            target=settings.target,
            format=settings.format,
            tokenizer=settings.tokenizer,
            output=output,
            validate=not no_validate,
            force=force,
            progress=progress,
        )
    return _finish(report, json=json)


@app.command()
def validate(
    *,
    bundle: flags.Bundle,
    memory_limit: flags.MemoryLimit = None,
    max_drift: flags.MaxDrift = None,
    require: flags.Require = False,
    arch: flags.Arch = None,
    all_cpus: flags.AllCpus = False,
    bisect: flags.Bisect = False,
    context_memory: flags.ContextMemory = False,
    json: flags.Json = False,
) -> int:
    """Run a bundle again under its limits, and judge it."""
    from edgeq import memory_profile, pipeline

    with watching() as progress:
        report = pipeline.validate(
            bundle,
            memory_limit=memory_limit,
            max_drift=max_drift,
            require=require,
            arch=arch,
            all_cpus=all_cpus,
            progress=progress,
        )
        if not (bisect or context_memory):
            return _finish(report, json=json, require=require)
        profile = memory_profile.profile_memory(
            bundle, bisect=bisect, context=context_memory, memory_limit=memory_limit, progress=progress
        )
    show.report_with_memory(report, profile, json=json)
    code = exit_code([report.verdict], require=require)
    return EXIT_RUNTIME_UNAVAILABLE if require and profile.reason and code == EXIT_DONE else code


app.command()(plan.plan)
app.command()(build.build)
app.command()(compare.compare)
app.command()(report.report)
app.command()(serve.serve)


@app.command()
def inspect(
    *,
    path: Annotated[str | None, typer.Argument(metavar="MODEL|STORE|BUNDLE", help="Default: as for export.")] = None,
    json: flags.Json = False,
) -> int:
    """Say what a model, a store or a bundle holds, without running it."""
    from edgeq import inspection

    found = inspection.inspect(path or read_settings(Path()).model)
    show.facts(found, json=json)
    return EXIT_BAD_INPUT if isinstance(found, inspection.BundleInspection) and not found.intact else EXIT_DONE


@app.command()
def targets(
    *,
    name: Annotated[str | None, typer.Argument(metavar="[NAME|FILE.toml]", help="Show one, with its sources.")] = None,
    json: flags.Json = False,
) -> int:
    """List the device profiles, or show one."""
    from edgeq.targets import profiles

    if name is None:
        show.profiles([profiles.load_profile(known) for known in profiles.available_profiles()], json=json)
    else:
        show.profile(profiles.load_profile(name), json=json)
    return EXIT_DONE


@app.command()
def run(
    *,
    bundle: flags.Bundle,
    prompt: Annotated[
        list[str] | None, typer.Option(help="Text to continue; for encoders, a sentence (repeat it).", metavar="TEXT")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Stop after this many tokens.", metavar="N", min=1)] = 64,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.", metavar="X")] = 0.7,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.", metavar="N", min=0)] = 0,
) -> int:
    """Try a bundle: continue a text, or compare sentences."""
    from edgeq.cli.trial import Sampling, try_bundle

    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    try_bundle(bundle, prompts=tuple(prompt or ()), sampling=sampling)
    return EXIT_DONE


@app.command()
def doctor(
    install: flags.Install = None, install_browser: flags.InstallBrowser = False, json: flags.Json = False
) -> int:
    """Say what this machine can do, what is missing, and how to get it."""
    from edgeq import doctor as machine

    with watching() as progress:
        if install_browser or install == "browser":
            machine.install_browser(progress)
        if install == "arm64":
            machine.install_arm64(progress)
    diagnosis = machine.examine()
    show.facts(diagnosis, json=json)
    return EXIT_RUNTIME_UNAVAILABLE if diagnosis.missing else EXIT_DONE


def _export(settings: Settings, *, validate: bool, force: bool) -> tuple[Report, ...]:
    from edgeq import pipeline

    with watching() as progress:
        return pipeline.export_formats(
            settings.model,
            target=settings.target,
            bits=settings.bits,
            method=settings.method,
            effort=settings.effort,
            calibration=settings.calibration,
            group_size=settings.group_size,
            symmetric=settings.symmetric,
            embedding_bits=settings.embedding_bits,
            format=settings.format,
            task=settings.task,
            accuracy_level=settings.accuracy_level,
            max_memory=settings.max_memory,
            max_drift=settings.max_drift,
            max_size=settings.max_size,
            recipe=settings.recipe,
            evaluation=settings.evaluation,
            tokenizer=settings.tokenizer,
            output=settings.output,
            validate=validate,
            force=force,
            progress=progress,
        )


def _finish(*reports: Report, json: bool, require: bool = False) -> int:
    """Show the reports, and turn the worst verdict into the exit code."""
    show.reports(reports, json=json)
    return exit_code((report.verdict for report in reports), require=require)
