"""What `make build` makes, used as its users do: installed, started, members of a plane.

Each product is built into a folder of the test's own and runs from there, or from an overlay of
this machine's root: nothing is installed on the machine itself.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

pytestmark = pytest.mark.lab

ROOT = Path(__file__).resolve().parents[2]
BUILD_S = 900.0
DEBIAN_PYTHON = Path("/usr/bin/python3")

PAGE = (ROOT / "docs" / "install.md").read_text()
BLOCKS = dict(re.findall(r"<!-- test: ([\w-]+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))


def typed(block: str) -> list[str]:
    """The commands of a block of docs/install.md, as root types them."""
    return BLOCKS[block].replace("sudo ", "").replace("\\\n", "").splitlines()


Build = Callable[[str], list[Path]]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Build one product by the command; return the files that it says it made."""
    folder = tmp_path_factory.mktemp("release")

    def build(what: str) -> list[Path]:
        argv = [sys.executable, ROOT / "tools" / "release", "--into", folder, what]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=BUILD_S, check=False)
        assert done.returncode == 0, done.stderr
        names = re.findall(r"^ *\d+\.\d\d MB  (\S+)$", done.stdout, re.MULTILINE)
        assert names
        return [folder / name for name in names]

    return build


@pytest.fixture(scope="module")
def peer(overlay):
    """A node of this source, to talk to."""
    overlay.start_guardian()
    return overlay.conflux("peer").ready()


@pytest.fixture(scope="module")
def of_node(release, build) -> dict[str, Path]:
    """The wheels that make a node here."""
    [*made] = build("wheels")
    return dict(release.wheels.of_node(release.wheels.found(made[0].parent)))


def plugins_of(place, *program: object) -> set[str]:
    """The distributions of the plugins that *program* has; all of them are sound."""
    survey = json.loads(place.run([*map(str, program), "plugins", "list", "--json"]).stdout)
    assert {plugin["stage"] for plugin in survey["plugins"]} == {"ok"}
    return {plugin["dist"].partition(" ")[0] for plugin in survey["plugins"]}


def files_of(members: Mapping[str, Path]) -> set[str]:
    """The files of the wheels, without metadata and the kit for tests, which needs pytest."""
    names = (name for path in members.values() for name in zipfile.ZipFile(path).namelist())
    return {name for name in names if not re.match(r"conflux/testing/|[^/]+\.dist-info/", name)}


def modules_of(members: Mapping[str, Path]) -> list[str]:
    """The modules in the wheels, as names to import."""
    paths = sorted(name for name in files_of(members) if name.endswith(".py"))
    assert len(paths) > 100
    return [re.sub(r"(/__init__)?\.py$", "", path).replace("/", ".") for path in paths]


def member(
    overlay,
    host: str,
    *program: object,
    beside=None,
    options: Sequence[str] = (),
    **variables: str,
):
    """Register a node that *program* is, and wait until it runs."""
    conflux = overlay.host(host, beside=beside)
    conflux.program = [str(word) for word in program]
    return conflux.register(overlay.tokens["alice"], *options, **variables).ready()


WEBRTC = {"VEILNET_PLUGIN_TETHER": "webrtc"}


def assert_works(conflux, peer) -> None:
    """Both ways; it ends at SIGTERM and takes its device along."""
    assert conflux.ping(peer)
    assert peer.ping(conflux)
    assert conflux.stop() == 0
    assert "veilnet" not in conflux.host.run(["ip", "-br", "link"]).stdout


class Root:
    """A copy of this machine's root that the world has and the machine has not."""

    def __init__(self, overlay, name: str) -> None:
        self.world = overlay.internet.world
        self.path = overlay.folder / f"{name}.root"
        layers = overlay.folder / f"{name}.layers"
        shared = overlay.folder
        script = f"""
            mkdir {self.path} {layers} && mount -t tmpfs -o mode=755 lab {layers} || exit
            mkdir {layers}/upper {layers}/work
            mount -t overlay lab {self.path} \\
              -o lowerdir=/,upperdir={layers}/upper,workdir={layers}/work || exit
            for folder in proc sys dev; do mount --rbind /$folder {self.path}/$folder || exit; done
            mount -t tmpfs -o mode=755 lab {self.path}/run
            mount -t tmpfs -o mode=1777 lab {self.path}/tmp
            mkdir -p {self.path}{shared} && mount --bind {shared} {self.path}{shared}
                    """
        self.world.run(["sh", "-c", script])

    def enter(self, *argv: object) -> list[str]:
        """The command line that runs *argv* in here."""
        words = [str(word) for word in argv]
        # As a login has it: nothing of this machine's own environments.
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return ["chroot", str(self.path), "env", path, "DEBIAN_FRONTEND=noninteractive", *words]

    def run(self, *argv: object, cwd: str = "/", online: bool = False) -> str:
        """Run *argv* in here as root; return what it printed. *online*: in the machine's network,
        for what asks package registries."""
        argv = ("sh", "-c", 'cd "$0" && exec "$@"', cwd, *argv)
        if not online:
            # Who types agrees to what apt asks.
            return self.world.run(self.enter(*argv), timeout_s=120, input="y\n").stdout
        enter = [word for word in self.world.nsenter if word != "--net"]
        done = subprocess.run(
            [*enter, *self.enter(*argv)],
            capture_output=True,
            text=True,
            timeout=BUILD_S,
            check=False,
        )
        assert done.returncode == 0, f"{shlex.join(map(str, argv))}\n{done.stdout}{done.stderr}"
        return done.stdout


# Wheels


def test_wheels_in_an_environment_without_the_source_tree_are_a_node(
    release, of_node, overlay, peer, tmp_path
):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    release.steps.install(python, release.wheels.to_install(of_node))
    program = tmp_path / "env" / "bin" / "veilnet-conflux"
    code = "import conflux, sys; print(conflux.__file__.startswith(sys.prefix))"
    assert overlay.internet.world.run([str(python), "-P", "-c", code]).stdout == "True\n"
    assert plugins_of(overlay.internet.world, program) == set(of_node) - {"veilnet-conflux"}
    # Everything can be imported, what only one verb needs, too.
    code = "import importlib, sys; [importlib.import_module(m) for m in sys.argv[1:]]"
    overlay.internet.world.run([str(python), "-P", "-c", code, *modules_of(of_node)])
    assert_works(member(overlay, "from-wheels", program), peer)
    demo = overlay.internet.world.run([str(program), "demo"], check=False)
    assert (demo.returncode, demo.stdout) == (3, "")
    assert demo.stderr.endswith(
        "needs Guardian beside this program: `pip install veilnet-guardian`\n"
    )


# The executable


@pytest.fixture(scope="module")
def executable(build) -> Path:
    if shutil.which("objcopy") is None:
        pytest.skip("building the executable takes objcopy (Debian: apt install binutils)")
    [made] = build("executable")
    return made


@pytest.fixture(scope="module")
def bare(executable, overlay) -> Root:
    """A machine without Python that has the executable as the page says."""
    if os.geteuid() != 0:
        pytest.skip("a root of its own for the executable takes root")
    bare = Root(overlay, "bare")
    for folder in ("root", *(str(path)[1:] for path in Path("/usr/lib").glob("python*"))):
        overlay.internet.world.run(["mount", "-t", "tmpfs", "lab", str(bare.path / folder)])
    bare.run("sh", "-c", "rm -f /usr/bin/python* /usr/local/bin/python*")
    assert bare.run("sh", "-c", "command -v python3 || echo none") == "none\n"
    shutil.copy(executable, overlay.folder)
    put, register = typed("executable")
    bare.run("mv", overlay.folder / executable.name, f"/root/{put.split()[-2]}")
    bare.run("sh", "-c", put, cwd="/root")
    assert register == "veilnet-conflux register -t TOKEN"
    return bare


@pytest.mark.thorough
def test_executable_is_a_node_with_this_platforms_plugins(bare, of_node, overlay, peer):
    program = bare.enter("veilnet-conflux")
    assert plugins_of(overlay.internet.world, *program) == set(of_node) - {"veilnet-conflux"}
    node = member(overlay, "one-file", *program, **WEBRTC)
    # A plugin's own program, the rule keeper, is started by the executable as by Python.
    second = member(overlay, "beside", *program, beside=node, options=["--tun-name", "second"])
    assert second.ping(peer, "-I", second.address)
    assert f"from {second.address} lookup" in second.host.run(["ip", "rule"]).stdout
    assert second.stop() == 0
    overlay.until(
        lambda: second.address not in second.host.run(["ip", "rule"]).stdout, "the rules to go"
    )
    assert_works(node, peer)


@pytest.mark.thorough
def test_executable_has_every_file_of_the_wheels_and_can_import_every_module(bare, of_node):
    wanted = files_of(of_node)
    code = "import importlib, sys; [importlib.import_module(m) for m in sys.argv[1:]]"
    bare.run("veilnet-conflux", "-c", code, *modules_of(of_node))
    folder = bare.run("sh", "-c", "echo /var/lib/veilnet-conflux/*/_internal").strip()
    there = bare.run("find", folder, "-type", "f", "-printf", "%P\\n").splitlines()
    assert sorted(wanted - set(there)) == []
    assert not [path for path in there if "libavcodec" in path]


@pytest.mark.thorough
def test_executable_that_is_killed_leaves_nothing_but_what_it_unpacked(bare, overlay, peer):
    node = member(overlay, "killed", *bare.enter("veilnet-conflux"))
    # The process that was started is the node: the script and what unpacked are gone.
    assert os.readlink(f"/proc/{node.process.program}/exe").endswith("/veilnet-conflux")
    node.kill()
    [folder] = bare.run("ls", "-A", "/var/lib/veilnet-conflux").split()
    assert not folder.startswith(".")
    bare.run("sh", "-c", typed("executable-remove")[-1])
    assert bare.run("find", "/usr", "/var/lib", "-name", "*veilnet*") == ""


# Debian


def need_root_on_debian() -> None:
    if os.geteuid() != 0:
        pytest.skip("installing a Debian package takes root")
    if shutil.which("apt-get") is None or not DEBIAN_PYTHON.exists():
        pytest.skip("Debian packages are built and installed on Debian")


@pytest.fixture(scope="module")
def debian(build, overlay) -> Iterator[Root]:
    """A Debian with the package in the folder /root."""
    need_root_on_debian()
    [package] = build("debian")
    root = Root(overlay, "debian")
    shutil.copy(package, overlay.folder)
    root.run("cp", overlay.folder / package.name, "/root")
    return root


def wheel_of_the_example(into: Path) -> None:
    """Build the third-party plugin of examples/, under the name that the page has for one."""
    argv = [Path(sys.executable).with_name("uv"), "build", "-q", "--wheel", "--offline"]
    argv += ["--no-build-isolation", "--python", sys.executable, "-o", into]
    subprocess.run([*argv, ROOT / "examples" / "conflux-plugin-xyz"], check=True)


@pytest.mark.thorough
def test_debian_package_is_installed_by_the_documented_command_and_removed(
    debian, of_node, overlay, peer
):
    install, register = typed("debian")
    debian.run("sh", "-c", install, cwd="/root")
    assert "install ok installed" in debian.run("dpkg", "--status", "veilnet-conflux")
    assert debian.run("dpkg", "--verify", "veilnet-conflux") == ""
    assert debian.run("find", "/etc/systemd", "-name", "veilnet*") == ""
    assert debian.run("getent", "group", "veilnet")
    program = debian.enter("veilnet-conflux")
    assert plugins_of(overlay.internet.world, *program) == set(of_node) - {"veilnet-conflux"}
    assert register == "veilnet-conflux register -t TOKEN"
    assert debian.run("find", "/usr/lib/veilnet-conflux", "-name", "libavcodec*") == ""
    assert_works(member(overlay, "debian", *program, **WEBRTC), peer)

    wheel_of_the_example(overlay.folder / "added")
    for command in typed("debian-plugin"):
        debian.run(
            *("env", f"PIP_FIND_LINKS={overlay.folder}/added", "sh", "-c", command), online=True
        )
    assert "conflux-plugin-xyz" in plugins_of(overlay.internet.world, *program)

    # What was added goes, too.
    debian.run("sh", "-c", typed("debian-remove")[-1])
    assert "is not installed" in debian.run("sh", "-c", "dpkg -s veilnet-conflux 2>&1 || :")
    assert debian.run("find", "/usr", "/etc", "/var/lib", "-name", "*veilnet*") == ""


# pip


@pytest.mark.thorough
def test_pip_installs_a_node_by_the_documented_commands(of_node, overlay, peer):
    need_root_on_debian()
    root = Root(overlay, "pip")
    links, versions = overlay.folder / "links", overlay.folder / "versions.txt"
    links.mkdir()
    for path in of_node.values():
        shutil.copy(path, links)
    lock = (ROOT / "requirements.lock").read_text()
    versions.write_text("\n".join(re.findall(r"^[\w.-]+==.*(?= \\$)", lock, re.MULTILINE)))
    settings = f"PIP_FIND_LINKS={links}", f"PIP_CONSTRAINT={versions}"
    root.run("env", *settings, "sh", "-ec", "\n".join(typed("pip")), online=True)
    program = root.enter("/opt/veilnet/bin/veilnet-conflux")
    assert plugins_of(overlay.internet.world, *program) == set(of_node) - {"veilnet-conflux"}
    assert_works(member(overlay, "by-pip", *program), peer)


# Docker, without an engine


class Dockerfile:
    """The instructions of the Dockerfile, carried out in roots of our own."""

    def __init__(self, text: str) -> None:
        joined = re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
        lines = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
        self.stages: list[list[tuple[str, str]]] = []
        for word, rest in lines:
            if word == "FROM":
                self.stages.append([])
            self.stages[-1].append((word, rest))

    def last(self, word: str) -> str:
        """The argument of the final stage's *word*."""
        [*_, rest] = [rest for found, rest in self.stages[-1] if found == word]
        return rest

    def argv(self, word: str) -> list[str]:
        """The words of an exec form, which is JSON."""
        return list(json.loads(self.last(word)[self.last(word).index("[") :]))


def carry_out(stage: list[tuple[str, str]], root: Root, context: Path, built: Root | None) -> None:
    folder = "/"
    for word, rest in stage:
        match word:
            case "WORKDIR":
                folder = rest
                root.run("mkdir", "-p", folder)
            case "COPY":
                source, target = rest.removeprefix("--from=build ").split()
                origin = built.path / source[1:] if "--from" in rest else context
                into = root.path / (folder if target == "." else target).lstrip("/")
                root.world.run(["sh", "-c", f"mkdir -p {into} && cp -a {origin}/. {into}/"])
            case "RUN":
                root.run("sh", "-c", rest, cwd=folder, online=True)
            case "FROM" | "ARG" | "ENV" | "VOLUME" | "USER" | "HEALTHCHECK" | "ENTRYPOINT" | "CMD":
                pass  # what they say is looked at by those who use the image
            case _:
                raise AssertionError(f"the test cannot carry out {word}")


@pytest.mark.thorough
def test_docker_image_by_its_own_steps_runs_a_node_that_is_not_root_and_is_healthy(overlay, peer):
    need_root_on_debian()
    if shutil.which("git") is None:
        pytest.skip("the Docker context is taken from git")
    dockerfile = Dockerfile((ROOT / "Dockerfile").read_text())
    context = overlay.folder / "context"
    context.mkdir()
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    copying = ["xargs", "-0", "cp", "--parents", "-t", str(context)]
    subprocess.run(copying, cwd=ROOT, input=listed.stdout, check=True)
    builder, image = Root(overlay, "builder"), Root(overlay, "image")
    carry_out(dockerfile.stages[0], builder, context, None)
    carry_out(dockerfile.stages[1], image, context, builder)

    # As compose has it: no right but CAP_NET_ADMIN, and that for who asks for it.
    user = dockerfile.last("USER")
    contained = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
    contained += ["--bounding-set=-all,+net_admin", "--inh-caps=-all"]
    name, value = dockerfile.last("ENV").split("=")
    token = overlay.admin("conflux", "create", "--user", "alice@example.org", "--plane", "home")
    node = overlay.host("container")
    node.folder = image.path / value[1:]
    # The device as an engine makes it, and then `read_only: true` and a volume.
    image.world.run(["sh", "-c", f"mknod -m 666 {image.path}/tmp/tun c 10 200"])
    image.world.run(["mount", "--bind", f"{image.path}/tmp/tun", f"{image.path}/dev/net/tun"])
    for mount in (f"--bind {node.folder} {node.folder}", f"-o remount,bind,ro {image.path}"):
        image.world.run(["mount", *mount.split()])
    guardian = f"http://{overlay.internet.address}:8000"
    variables = [
        f"{name}={value}",
        f"VEILNET_CONFLUX_TOKEN={token}",
        f"VEILNET_GUARDIAN={guardian}",
    ]
    started = [*dockerfile.argv("ENTRYPOINT"), *dockerfile.argv("CMD")]
    with node.log.open("w") as log:
        argv = image.enter("env", *variables, *contained, *started)
        node.process = node.host.popen(argv, stdout=log, stderr=log)
    check = image.enter("env", *variables, *contained, *dockerfile.argv("HEALTHCHECK"))
    overlay.until(
        lambda: node.host.run(check, check=False).returncode == 0, "the container to be healthy"
    )
    status = Path(f"/proc/{node.process.program}/status").read_text()
    assert "\nUid:\t0\t" not in status
    assert re.search(r"\nCapBnd:\t0+1000\n", status)
    node.process.terminate()
    assert node.process.wait(20) == 0
    assert node.host.run(check, check=False).returncode != 0
