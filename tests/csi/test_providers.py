"""Credential providers, each a real program: what they are asked, what is made of their answers.

One module, though long: it is the kubelet's exec protocol read once through, on one set of plugins.
"""

import base64
import json
import os
import signal
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from clipfs import errors
from csi.credentials.provider_config import load_providers, seconds_of
from csi.credentials.providers import Providers
from csi.credentials.sources import Found, SourceFailed
from csi.pod import Pod
from tests.support.plugins import V1, Plugins
from tests.support.volumes import POD, Secrets, volume_of
from tests.support.wait import wait_for

IMAGE = "h.io/team/app:1"
TOKENS = {
    "serviceAccountTokenAudience": "reg",
    "requireServiceAccount": True,
    "cacheType": "ServiceAccount",
}
GIVE = 'answer["auth"] = auth(**{"h.io": f"p{calls}"})\n'


@pytest.fixture
def plugins(tmp_path: Path) -> Plugins:
    return Plugins(tmp_path)


class Clock:
    """Seconds since the epoch, as a test wants them."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def password(found: Found | None, image: str = "h.io/team/app") -> str | None:
    one = found.config.for_repository(*image.split("/", 1)) if found else None
    return one.password if one else None


def asked(providers: Providers, image: str = IMAGE, *, anew: bool = False) -> str | None:
    return password(
        providers.credentials(volume_of(image), anew=anew), image.rpartition(":")[0] or image
    )


@pytest.mark.parametrize("version", ["v1", "v1beta1", "v1alpha1"])
def test_a_plugin_is_asked_for_the_image_with_its_arguments_and_variables(
    plugins: Plugins, version: str
) -> None:
    api = f"credentialprovider.kubelet.k8s.io/{version}"
    plugins.add("helper", GIVE, apiVersion=api, args=["get", "--json"],
                env=[{"name": "PROFILE", "value": "prod"}])  # fmt: skip  # one plugin
    assert asked(plugins.opened()) == "p1"
    (call,) = plugins.calls("helper")
    assert call["asked"] == {
        "apiVersion": api, "kind": "CredentialProviderRequest", "image": "h.io/team/app",
    }  # fmt: skip  # one document
    assert call["args"] == ["get", "--json"]
    assert call["env"]["PROFILE"] == "prod"


def test_a_plugin_has_the_drivers_environment_and_its_own_words_hold(
    plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kubelet's: a helper needs the proxy, the region, the role and its token's file."""
    ours = {
        "HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "10.0.0.0/8", "AWS_REGION": "eu-west-1",
        "AWS_ROLE_ARN": "arn:aws:iam::1:role/r", "AWS_WEB_IDENTITY_TOKEN_FILE": "/run/token",
        "AZURE_CLIENT_ID": "id", "GOOGLE_APPLICATION_CREDENTIALS": "/run/key.json",
    }  # fmt: skip  # a table
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    plugins.add("helper", GIVE, env=[{"name": "AWS_REGION", "value": "us-east-1"}])
    asked(plugins.opened())
    (call,) = plugins.calls("helper")
    expected = {**ours, "AWS_REGION": "us-east-1", "PATH": os.environ["PATH"]}
    assert {name: call["env"].get(name) for name in expected} == expected


@pytest.mark.parametrize(
    "name",
    ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
     "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_CLIENT_SECRET", "AZURE_STORAGE_SAS_TOKEN",
     "GOOGLE_SERVICE_ACCOUNT_KEY", "REDIS_PASSWORD"],
)  # fmt: skip  # a table
def test_a_plugin_sees_no_secret_of_the_drivers_environment(
    name: str, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as an object store's; a plugin would take them for its own, and be refused."""
    monkeypatch.setenv(name, "the-drivers-own")
    plugins.add("helper", GIVE)
    plugins.add("with-its-own", GIVE, env=[{"name": name, "value": "given"}])
    asked(plugins.opened())
    (call,), (given,) = plugins.calls("helper"), plugins.calls("with-its-own")
    assert "the-drivers-own" not in call["env"].values()
    assert given["env"][name] == "given"


def test_a_plugin_goes_through_the_proxy_of_the_driver_unless_its_entry_says_another(
    plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{HUSH}@proxy:3128")
    monkeypatch.setenv("no_proxy", "10.0.0.0/8")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    tell = 'print(os.environ["HTTPS_PROXY"], file=sys.stderr)\n'
    plugins.add("helper", GIVE + tell, env=[{"name": "HTTP_PROXY", "value": "http://own:1"}])
    with capture_logs() as lines:
        assert asked(plugins.opened()) == "p1"
    (call,) = plugins.calls("helper")
    assert call["env"]["HTTPS_PROXY"] == f"http://user:{HUSH}@proxy:3128"
    assert call["env"]["no_proxy"] == "10.0.0.0/8"
    assert call["env"]["HTTP_PROXY"] == "http://own:1"
    assert "credential provider said something" in json.dumps(lines)
    assert HUSH not in json.dumps(lines)


def test_a_plugin_for_other_images_is_not_run(plugins: Plugins) -> None:
    plugins.add("helper", GIVE, match=["*.gcr.io", "h.io/other"])
    assert plugins.opened().credentials(volume_of(IMAGE)) is None
    assert plugins.calls("helper") == []


@pytest.mark.parametrize(
    ("kind", "remembered_for"),
    [
        ("Image", [True, False, False]),
        ("Registry", [True, True, False]),
        ("Global", [True, True, True]),
    ],
)
def test_an_answer_is_remembered_for_the_image_its_registry_or_everything(
    plugins: Plugins, kind: str, remembered_for: list[bool]
) -> None:
    body = (
        f'answer["cacheKeyType"] = {kind!r}\nanswer["auth"] = auth(**{{"*.io": f"p{{calls}}"}})\n'
    )
    plugins.add("helper", body, match=["*.io"])
    providers = plugins.opened()
    assert asked(providers) == "p1"
    for image, is_remembered in zip(
        (IMAGE, "h.io/else:1", "g.io/app:1"), remembered_for, strict=True
    ):
        before = len(plugins.calls("helper"))
        asked(providers, image)
        assert (len(plugins.calls("helper")) == before) == is_remembered


@pytest.mark.parametrize(
    ("said", "default", "life_s"),
    [("'90s'", "10m", 90), ("None", "10m", 600), ("'1h30m'", "0s", 5400)],
)
def test_an_answer_ends_when_the_plugin_says_or_else_the_file(
    plugins: Plugins, said: str, default: str, life_s: float
) -> None:
    plugins.add("helper", GIVE + f'answer["cacheDuration"] = {said}', defaultCacheDuration=default)
    clock = Clock()
    providers = plugins.opened(now=clock)
    found = providers.credentials(volume_of(IMAGE))
    assert found is not None
    assert found.can_be_asked_again
    clock.now_s += life_s - 1
    assert asked(providers) == "p1"
    clock.now_s += 1
    assert asked(providers) == "p2"


@pytest.mark.parametrize(("said", "default"), [("'0s'", "10m"), ("None", "0s"), ("'0'", "1h")])
def test_an_answer_that_is_not_to_be_remembered_is_not(
    plugins: Plugins, said: str, default: str
) -> None:
    plugins.add("helper", GIVE + f'answer["cacheDuration"] = {said}', defaultCacheDuration=default)
    providers = plugins.opened()
    assert [asked(providers), asked(providers)] == ["p1", "p2"]


def test_what_the_registry_refused_is_asked_for_anew(plugins: Plugins) -> None:
    plugins.add("helper", GIVE)
    providers = plugins.opened()
    assert [asked(providers), asked(providers, anew=True), asked(providers)] == ["p1", "p2", "p2"]


def test_many_who_ask_at_once_run_a_plugin_once(plugins: Plugins, tmp_path: Path) -> None:
    gate, askers = tmp_path / "gate", threading.Barrier(5)
    os.mkfifo(gate)
    keys = {"optionalServiceAccountAnnotationKeys": ["a"]}
    plugins.add("helper", f"open({str(gate)!r}).read()\n" + GIVE, tokenAttributes=TOKENS | keys)
    volume = volume_of(IMAGE, tokens={"reg": "tok"})

    class Together(Secrets):
        def service_account_annotations(self, pod: Pod) -> Mapping[str, str]:
            askers.wait()  # all are on their way to the plugin
            return {}

    providers = plugins.opened(accounts=Together())
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(providers.credentials, volume) for _ in range(4)]
        askers.wait()
        gate.write_text("")
        assert [password(one.result(30)) for one in calls] == ["p1"] * 4
    assert len(plugins.calls("helper")) == 1


def test_all_plugins_that_match_are_asked_and_the_earlier_ones_word_holds(
    plugins: Plugins,
) -> None:
    plugins.add("first", 'answer["auth"] = auth(**{"h.io": "one", "a.io": "one"})')
    plugins.add("second", 'answer["auth"] = auth(**{"h.io": "two", "b.io": "two"})')
    found = plugins.opened().credentials(volume_of(IMAGE))
    passwords = [password(found, f"{host}/x") for host in ("h.io", "a.io", "b.io")]
    assert passwords == ["one", "one", "two"]


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        ({"*.io": "glob", "h.io": "host"}, "host"),
        ({"h.io/team": "path", "h.io": "host"}, "path"),
        ({"https://h.io": "scheme"}, "scheme"),
        ({"*.io": "glob"}, "glob"),
        ({"g.io": "other"}, None),
        ({"h.io:5000": "port"}, None),
    ],
    ids=str,
)
def test_of_an_answers_places_those_that_stand_for_the_image_count(
    plugins: Plugins, auth: dict[str, str], expected: str | None
) -> None:
    plugins.add("helper", f'answer["auth"] = auth(**{auth})')
    found = plugins.opened().credentials(volume_of(IMAGE))
    assert password(found) == expected


def test_docker_hub_is_known_by_its_old_address(plugins: Plugins) -> None:
    plugins.add(
        "helper", 'answer["auth"] = auth(**{"https://index.docker.io/v1/": "hub"})',
        match=["docker.io"],
    )  # fmt: skip  # one plugin
    found = plugins.opened().credentials(volume_of("busybox:1"))
    assert password(found, "docker.io/library/busybox") == "hub"


HUSH = "hush-hush-word"
SH = "#!/bin/sh\n"


@pytest.mark.parametrize(
    ("program", "told"),
    [
        pytest.param(f"{SH}echo {HUSH}; exit 3", "ended with status 3", id="status"),
        pytest.param(f"{SH}kill -9 $$", "ended with status -9", id="killed"),
        pytest.param(f"{SH}echo {HUSH}", "answered no Cred", id="no-json"),
        pytest.param(f"{SH}true", "answered no Cred", id="nothing"),
        pytest.param(f"#!/nowhere/{HUSH}\n", "cannot be run: FileNotFound", id="no-interpreter"),
        pytest.param(f'{SH}echo \'{{"auth": "{HUSH}"}}\'', "answered no Cred", id="no-kind"),
    ],
)
def test_a_plugin_that_fails_is_named_and_never_quoted(
    plugins: Plugins, program: str, told: str
) -> None:
    plugins.add_program("helper", program)
    with capture_logs() as lines, pytest.raises(SourceFailed) as caught:
        plugins.opened().credentials(volume_of(IMAGE))
    assert str(caught.value).startswith(f"credential provider helper {told}")
    assert HUSH not in str(caught.value) + json.dumps(lines)


@pytest.mark.parametrize(
    "change",
    [
        f'answer["cacheKeyType"] = "{HUSH}"',
        'answer["apiVersion"] = "credentialprovider.kubelet.k8s.io/v1beta1"',
        'answer["kind"] = "CredentialProviderRequest"',
        f'answer["cacheDuration"] = "{HUSH}"',
        'answer["cacheDuration"] = "-1s"',
        f'answer["auth"] = ["{HUSH}"]',
        'answer["auth"] = {"h.io": {"username": 1}}',
    ],
)
def test_a_wrong_answer_is_none(plugins: Plugins, change: str) -> None:
    plugins.add("helper", GIVE + change)
    with pytest.raises(SourceFailed, match="answered no CredentialProviderResponse") as caught:
        plugins.opened().credentials(volume_of(IMAGE))
    assert HUSH not in str(caught.value)


def test_a_plugin_without_an_end_is_killed_with_its_children(
    plugins: Plugins, tmp_path: Path
) -> None:
    mark = {"name": "MARK", "value": str(tmp_path)}
    plugins.add_program("helper", f"{SH}sleep 1000 & wait", env=[mark])
    with pytest.raises(SourceFailed, match="gave no answer in 2 s"):
        plugins.opened(time_s=2).credentials(volume_of(IMAGE))
    wait_for(lambda: not with_environment(f"MARK={tmp_path}"))


def with_environment(words: str) -> list[str]:
    """Processes that have words in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            found += [str(path)] if words.encode() in path.read_bytes() else []
    return found


def test_one_that_fails_does_not_hide_what_another_knows(plugins: Plugins) -> None:
    plugins.add_program("broken", f"{SH}exit 1")
    plugins.add("helper", GIVE)
    assert asked(plugins.opened()) == "p1"


@pytest.mark.parametrize("after", ["", "; sleep 1000"], ids=["ends", "goes-on"])
def test_a_plugin_that_says_too_much_is_ended(plugins: Plugins, after: str) -> None:
    plugins.add_program("helper", f"{SH}head -c 3000000 /dev/zero{after}")
    with pytest.raises(SourceFailed, match="helper answered more than 1048576 bytes"):
        plugins.opened().credentials(volume_of(IMAGE))


ANSWER = json.dumps(
    {"apiVersion": V1, "kind": "CredentialProviderResponse", "cacheKeyType": "Image",
     "auth": {"h.io": {"username": "user", "password": "p1"}}}
)  # fmt: skip  # one document


@pytest.mark.parametrize("child", ["sleep 1000", "setsid sleep 1000"], ids=["child", "daemon"])
def test_what_a_plugin_leaves_behind_keeps_nobody_waiting(
    plugins: Plugins, tmp_path: Path, child: str
) -> None:
    mark = {"name": "MARK", "value": str(tmp_path)}
    plugins.add_program("helper", f"{SH}{child} &\necho '{ANSWER}'", env=[mark])
    assert asked(plugins.opened()) == "p1"
    if child.startswith("setsid"):
        for path in with_environment(f"MARK={tmp_path}"):
            os.kill(int(Path(path).parent.name), signal.SIGKILL)
    wait_for(lambda: not with_environment(f"MARK={tmp_path}"))


def test_a_plugin_that_closes_its_pipes_is_waited_for(plugins: Plugins, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    program = f"{SH}exec <&-\necho '{ANSWER}'\nexec >&- 2>&-\nread line <{gate}\nexit 4"
    plugins.add_program("helper", program)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(plugins.opened().credentials, volume_of(IMAGE))
        gate.write_text("go on\n")
        with pytest.raises(SourceFailed, match="ended with status 4"):
            call.result(60)


@pytest.mark.parametrize("status", [0, 3])
def test_of_what_a_plugin_says_on_stderr_the_length_alone_is_told(
    plugins: Plugins, status: int
) -> None:
    words = f"pw: hunter2 {HUSH}\n"
    program = f"{SH}echo '{words.strip()}' >&2\nhead -c 3000000 /dev/zero >&2\necho '{ANSWER}'\n"
    plugins.add_program("helper", f"{program}exit {status}")
    with capture_logs() as lines, suppress(SourceFailed):
        plugins.opened().credentials(volume_of(IMAGE))
    told = {"provider": "helper", "status": status, "stderr_bytes": 3000000 + len(words)}
    assert [one for one in lines if one.items() >= told.items()] != []
    assert not any(word in json.dumps(lines) for word in ("hunter2", HUSH, "\\u0000"))


PASS_ON = 'answer["auth"] = auth(**{"h.io": asked.get("serviceAccountToken", "none")})\n'


def jwt(uid: str, number: int) -> str:
    claims = {"kubernetes.io": {"serviceaccount": {"name": "builder", "uid": uid}}, "n": number}
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.c2ln"


def test_a_plugin_is_given_the_kubelets_token_for_its_audience(plugins: Plugins) -> None:
    plugins.add("helper", PASS_ON, tokenAttributes=TOKENS)
    found = plugins.opened().credentials(volume_of(IMAGE, tokens={"reg": "tok", "else": "x"}))
    assert password(found) == "tok"


def test_a_token_that_a_pods_author_wrote_is_not_passed_on(plugins: Plugins) -> None:
    plugins.add("helper", PASS_ON, tokenAttributes=TOKENS)
    forged = volume_of(IMAGE, tokens={"reg": "forged"}, token_requests=False)
    with pytest.raises(SourceFailed, match=r"wants a token for reg: .*--token-requests"):
        plugins.opened().credentials(forged)
    assert plugins.calls("helper") == []


def test_an_expired_token_is_not_passed_on(plugins: Plugins) -> None:
    plugins.add("helper", PASS_ON, tokenAttributes=TOKENS)
    old = volume_of(IMAGE, tokens={"reg": "tok"}, expires="1970-01-01T00:16:39Z")
    with pytest.raises(SourceFailed, match="has expired"):
        plugins.opened().credentials(old)
    assert plugins.calls("helper") == []


@pytest.mark.parametrize(("required", "expected"), [(True, None), (False, "none")])
def test_a_pod_without_a_service_account_gets_a_plugins_answer_only_if_that_is_allowed(
    plugins: Plugins, required: bool, expected: str | None
) -> None:
    plugins.add("helper", PASS_ON, tokenAttributes={**TOKENS, "requireServiceAccount": required})
    pod = Pod(namespace="team-a", name="static", uid="u")
    assert password(plugins.opened().credentials(volume_of(IMAGE, pod=pod))) == expected


@pytest.mark.parametrize(
    ("cache_type", "of_same_account"), [("ServiceAccount", "one"), ("Token", "two")]
)
def test_answers_are_remembered_for_an_account_or_a_token_and_never_for_another_account(
    plugins: Plugins, cache_type: str, of_same_account: str
) -> None:
    body = f'answer["cacheKeyType"] = "Global"\n{PASS_ON}'
    plugins.add("helper", body, tokenAttributes={**TOKENS, "cacheType": cache_type})
    providers = plugins.opened()
    tokens = {"one": jwt("uid-1", 1), "two": jwt("uid-1", 2), "three": jwt("uid-2", 3)}

    def given(name: str, pod: Pod = POD) -> str | None:
        found = providers.credentials(volume_of(IMAGE, pod=pod, tokens={"reg": tokens[name]}))
        return password(found)

    assert given("one") == tokens["one"]
    assert given("two") == tokens[of_same_account]
    assert given("three") == tokens["three"], "made again under the same name"
    other = Pod(namespace="team-b", name="web", uid="u-2", service_account="builder")
    assert given("two", other) == tokens["two"]


def test_annotations_of_the_account_go_along_and_one_that_must_be_there_decides(
    plugins: Plugins,
) -> None:
    keys = {
        "requiredServiceAccountAnnotationKeys": ["team/role"],
        "optionalServiceAccountAnnotationKeys": ["team/hint", "team/absent"],
    }
    plugins.add("helper", GIVE, tokenAttributes={**TOKENS, **keys})
    cluster = Secrets(annotations={"team/role": "r", "team/hint": "h", "team/private": "x"})
    volume = volume_of(IMAGE, tokens={"reg": "tok"})
    assert password(plugins.opened(accounts=cluster).credentials(volume)) == "p1"
    (call,) = plugins.calls("helper")
    given = {"team/role": "r", "team/hint": "h"}
    assert call["asked"]["serviceAccountAnnotations"] == given
    del cluster.annotations["team/role"]
    assert plugins.opened(accounts=cluster).credentials(volume) is None
    with pytest.raises(SourceFailed, match="no cluster to ask; give it --kubeconfig"):
        plugins.opened().credentials(volume)
    assert len(plugins.calls("helper")) == 1


def test_the_kubelets_file_is_read_as_yaml_too(plugins: Plugins) -> None:
    plugins.add("helper", GIVE)
    plugins.file.write_text(
        "apiVersion: kubelet.config.k8s.io/v1\n"
        "kind: CredentialProviderConfig\n"
        "providers:\n"
        "- name: helper\n"
        "  matchImages: ['*.io']\n"
        "  defaultCacheDuration: 12h\n"
        "  apiVersion: credentialprovider.kubelet.k8s.io/v1\n"
        "  env:\n"
        "  - {name: MODE, value: yaml}\n"
    )
    assert asked(plugins.opened()) == "p1"
    assert plugins.calls("helper")[0]["env"]["MODE"] == "yaml"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"name": "../helper"}, "a name is a file's"),
        ({"name": "absent"}, "is no executable"),
        ({"matchImages": []}, "matchImages is empty"),
        ({"matchImages": ["h.io:*"]}, r"'h\.io:\*' is no host"),
        ({"defaultCacheDuration": "soon"}, "no duration"),
        ({"defaultCacheDuration": "-1s"}, "no duration"),
        ({"apiVersion": "v1"}, r"Invalid enum value 'v1'"),
        ({"matchImage": ["h.io"]}, "unknown field `matchImage`"),
        ({"tokenAttributes": {**TOKENS, "serviceAccountTokenAudience": ""}}, "Audience is empty"),
        ({"tokenAttributes": {**TOKENS, "cacheType": "Pod"}}, "Invalid enum value 'Pod'"),
        ({"tokenAttributes": {"cacheType": "Token"}}, "missing required field"),
        ({"tokenAttributes": TOKENS, "apiVersion": f"{V1}beta1"}, "tokenAttributes need"),
        (
            {"tokenAttributes": {**TOKENS, "requireServiceAccount": False,
                                 "requiredServiceAccountAnnotationKeys": ["a"]}},
            "need requireServiceAccount",
        ),
    ],
    ids=str,
)  # fmt: skip  # one row a fault
def test_a_file_that_the_kubelet_would_refuse_is_refused_by_name(
    plugins: Plugins, fields: dict[str, object], told: str
) -> None:
    plugins.add("helper", GIVE)
    plugins.providers[0].update(fields)
    plugins.write({})
    with pytest.raises(errors.InvalidInput, match=told) as caught:
        load_providers(plugins.file, plugins.folder)
    assert str(plugins.file) in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "over",
    [{"kind": "KubeletConfiguration"}, {"apiVersion": "v1"}, {"providers": []}, {"more": 1}],
    ids=str,
)
def test_another_document_is_refused(plugins: Plugins, over: dict[str, object]) -> None:
    plugins.add("helper", GIVE)
    plugins.write(over)
    with pytest.raises(errors.InvalidInput):
        load_providers(plugins.file, plugins.folder)


def in_folder(plugins: Plugins, **names: str) -> Path:
    """A folder of files, each with the one plugin that it names."""
    folder = plugins.file.parent / "folder"
    folder.mkdir()
    for file, name in names.items():
        plugins.providers = [one for one in plugins.providers if one["name"] != name]
        plugins.add(name, 'answer["auth"] = auth(**{"h.io": "' + name + '"})')
        plugins.providers = plugins.providers[-1:]
        plugins.write({})
        plugins.file.rename(folder / file.replace("_", "."))
    return folder


def test_the_files_of_a_folder_are_read_in_the_order_of_their_names(plugins: Plugins) -> None:
    folder = in_folder(plugins, b_json="second", a_yml="first", c_yaml="third", d_bak="never")
    (folder / "e.yaml").mkdir()
    found = load_providers(folder, plugins.folder)
    assert [one.name for one in found] == ["first", "second", "third"]
    assert asked(Providers(found, plugins.folder)) == "first", "the earlier one holds"


def test_a_folder_without_a_file_or_with_one_name_twice_is_refused(plugins: Plugins) -> None:
    folder = in_folder(plugins, a_json="helper", b_json="helper")
    with pytest.raises(errors.InvalidInput, match="two providers are called 'helper'") as caught:
        load_providers(folder, plugins.folder)
    assert str(folder) in str(caught.value)
    for path in folder.iterdir():
        path.rename(path.with_suffix(".off"))
    with pytest.raises(errors.InvalidInput, match=r"no file there ends in \.json, \.yaml, \.yml"):
        load_providers(folder, plugins.folder)


def test_a_file_of_a_folder_that_is_wrong_is_named(plugins: Plugins) -> None:
    folder = in_folder(plugins, a_json="helper")
    (folder / "b.yaml").write_text(f"env: [{HUSH}: {{")
    with pytest.raises(errors.InvalidInput, match=r"b\.yaml: it is neither") as caught:
        load_providers(folder, plugins.folder)
    assert HUSH not in str(caught.value)


def test_a_file_that_is_no_yaml_is_not_quoted(plugins: Plugins) -> None:
    plugins.file.write_text(f"env: [{HUSH}: {{")
    with pytest.raises(errors.InvalidInput, match="neither YAML nor JSON") as caught:
        load_providers(plugins.file, plugins.folder)
    assert HUSH not in str(caught.value)


def test_no_repr_shows_a_secret(plugins: Plugins) -> None:
    plugins.add("helper", f'answer["auth"] = auth(**{{"h.io": "{HUSH}"}})', args=[HUSH],
                env=[{"name": "KEY", "value": HUSH}])  # fmt: skip  # one plugin
    (config,) = load_providers(plugins.file, plugins.folder)
    providers = plugins.opened()
    found = providers.credentials(volume_of(IMAGE))
    assert password(found) == HUSH
    assert HUSH not in repr([config, providers, found])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("12h", 43200), ("1h30m", 5400), ("0s", 0), ("0", 0), ("1.5s", 1.5), ("100ms", 0.1)],
)
def test_durations_are_gos(text: str, seconds: float) -> None:
    assert seconds_of(text) == pytest.approx(seconds)
