use proptest::prelude::*;

use super::*;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn unified(path: &str) -> Cgroups {
    Cgroups::parse(format!("0::{path}\n").as_bytes()).unwrap()
}

fn named(path: &str) -> String {
    path.replace("<A>", A).replace("<B>", B)
}

fn container(path: &str) -> Result<Option<(Runtime, String, Option<u32>)>, CgroupError> {
    let found = unified(&named(path)).container()?;
    Ok(found.map(|container| (container.runtime, container.id, container.rootless)))
}

#[test]
fn containers_of_every_runtime() {
    use Runtime::{Containerd, Crio, Docker, Kubernetes, Podman};
    let pod = "kubepods-burstable-pod2c48913c_b29f_11e7_9350_020968147796.slice";
    let cases = [
        ("/system.slice/docker-<A>.scope".into(), Docker),
        ("/docker/<A>".into(), Docker),
        ("/docker/<A>/init.scope".into(), Docker),
        ("/my.slice/my-own.slice/docker-<A>.scope/system.slice/foo.service".into(), Docker),
        ("/machine.slice/libpod-<A>.scope".into(), Podman),
        ("/machine.slice/libpod-<A>.scope/container".into(), Podman),
        (format!("/machine.slice/machine-libpod_pod_{B}.slice/libpod-<A>.scope/container"), Podman),
        ("/libpod_parent/libpod-<A>".into(), Podman),
        ("/libpod_parent/<B>/libpod-<A>".into(), Podman),
        ("/system.slice/nerdctl-<A>.scope".into(), Containerd),
        ("/default/<A>".into(), Containerd),
        (format!("/kubepods.slice/kubepods-burstable.slice/{pod}/cri-containerd-<A>.scope"), Containerd),
        (format!("/kubepods.slice/kubepods-burstable.slice/{pod}/docker-<A>.scope"), Docker),
        (format!("/kubepods.slice/kubepods-burstable.slice/{pod}/crio-<A>.scope"), Crio),
        (format!("/kubepods.slice/kubepods-burstable.slice/{pod}/crio-<A>.scope/container"), Crio),
        (format!("/system.slice/containerd.service/{pod}:cri-containerd:<A>"), Containerd),
        (format!("/system.slice/k3s.service/{pod}:cri-containerd:<A>"), Containerd),
        ("/kubepods/burstable/pod2c48913c-b29f-11e7-9350-020968147796/<A>".into(), Kubernetes),
        ("/kubepods/pod2c48913c-b29f-11e7-9350-020968147796/<A>".into(), Kubernetes),
        ("/kubepods/besteffort/pod2c48913c-b29f-11e7-9350-020968147796/crio-<A>".into(), Crio),
    ];
    for (path, runtime) in cases {
        assert_eq!(container(&path), Ok(Some((runtime, A.to_owned(), None))), "{path}");
    }
}

#[test]
fn a_rootless_container_names_its_user() {
    let base = "/user.slice/user-1000.slice/user@1000.service";
    for (path, runtime) in [
        ("user.slice/libpod-<A>.scope/container", Runtime::Podman),
        ("app.slice/docker-<A>.scope", Runtime::Docker),
        // A user who plays at being root's runtime is that user all the same.
        ("kubepods.slice/cri-containerd-<A>.scope", Runtime::Containerd),
    ] {
        let path = format!("{base}/{path}");
        assert_eq!(container(&path), Ok(Some((runtime, A.to_owned(), Some(1000)))), "{path}");
    }
}

/// What a user may name as he likes names nobody's container.
#[test]
fn what_others_may_name_is_no_container() {
    for path in [
        "/",
        "/system.slice/nginx.service",
        "/system.slice/nginx.service/docker-<A>.scope",
        "/system.slice/nginx.service/docker/<A>",
        "/user.slice/user-1000.slice/session-3.scope/docker-<A>.scope",
        // Not the user's own manager: another one's slice, or none.
        "/user.slice/user-1000.slice/user@1001.service/docker-<A>.scope",
        "/user.slice/user-1000.slice/user@01000.service/docker-<A>.scope",
        "/system.slice/user@1000.service/docker-<A>.scope",
        // pam_cgfs gives users folders of their own.
        "/user/alice/0/docker-<A>.scope",
        "/user/alice/0/docker/<A>",
        "/lxc/guest/docker/<A>",
        "/lxc.payload.guest/system.slice/docker-<A>.scope",
        "/foo/<A>",
        "/<A>",
        "/app.slice/containerd.service/x.slice:cri-containerd:<A>",
        // Monitors beside containers.
        "/machine.slice/libpod-conmon-<A>.scope",
        "/kubepods.slice/crio-conmon-<A>.scope",
        // Pods.
        "/machine.slice/machine-libpod_pod_<A>.slice",
        "/libpod_parent/<A>",
        "/kubepods/<A>",
        "/kubepods/burstable/pod1/deeper/<A>",
    ] {
        assert_eq!(container(path), Ok(None), "{path}");
    }
}

#[test]
fn what_is_ambiguous_or_cut_off_is_refused() {
    for path in [
        "/docker/<A>/docker/<B>",
        "/docker/<A>/<B>",
        "/system.slice/docker-<A>.scope/system.slice/docker-<B>.scope",
        "/system.slice/docker-<A>.scope/kubepods.slice/cri-containerd-<B>.scope",
        "/kubepods/burstable/pod1/<A>/x/<B>",
    ] {
        assert_eq!(container(path), Err(CgroupError::Ambiguous), "{path}");
    }
    assert_eq!(container("/docker/<A>/x/<A>").unwrap().unwrap().1, A, "the same twice is one");
    let short = A.strip_prefix('a').unwrap();
    for id in [short, &A.to_uppercase(), &format!("{A}a"), &format!("{short}g")] {
        for path in ["/system.slice/docker-{}.scope", "/machine.slice/libpod-{}.scope/container"] {
            let path = path.replace("{}", id);
            assert_eq!(container(&path), Err(CgroupError::Id), "{path}");
        }
    }
    assert_eq!(container(&format!("/docker/{short}")), Err(CgroupError::Id));
}

#[test]
fn hierarchies_must_agree() {
    let parse = |text: &str| Cgroups::parse(named(text).as_bytes()).unwrap();
    let found = |text: &str| parse(text).container().map(|found| found.map(|c| (c.runtime, c.id)));
    assert_eq!(
        found("12:memory:/docker/<A>\n1:name=systemd:/docker/<A>\n0::/system.slice/containerd.service\n"),
        Ok(Some((Runtime::Docker, A.to_owned())))
    );
    assert_eq!(found("12:memory:/docker/<A>\n1:name=systemd:/docker/<B>\n"), Err(CgroupError::Ambiguous));
    assert_eq!(
        found("2:cpu:/kubepods/burstable/pod1/<A>\n1:name=systemd:/kubepods.slice/crio-<A>.scope\n"),
        Ok(Some((Runtime::Crio, A.to_owned())))
    );
    assert_eq!(
        found("2:cpu:/docker/<A>\n1:name=systemd:/kubepods.slice/crio-<A>.scope\n"),
        Err(CgroupError::Ambiguous)
    );
    assert_eq!(
        found("2:cpu:/docker/<A>\n0::/user.slice/user-1.slice/user@1.service/docker-<A>.scope\n"),
        Err(CgroupError::Ambiguous)
    );
}

#[test]
fn units_are_those_of_the_system() {
    for (path, unit) in [
        ("/system.slice/nginx.service", Some("nginx.service")),
        ("/system.slice/system-getty.slice/getty@tty1.service", Some("getty@tty1.service")),
        ("/init.scope", Some("init.scope")),
        ("/system.slice/nginx.service/worker/other.service", Some("nginx.service")),
        ("/user.slice/user-1000.slice/session-3.scope", Some("session-3.scope")),
        // A user's own unit is not told apart from its user's manager.
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service", Some("user@1000.service")),
        ("/system.slice/docker-<A>.scope/system.slice/nginx.service", Some(&*named("docker-<A>.scope"))),
        ("/system.slice/_cpu.service", Some("cpu.service")),
        ("/", None),
        ("/system.slice", None),
        ("/docker/<A>/system.slice/nginx.service", None),
        ("/user/alice/nginx.service", None),
        ("/system.slice/.service", None),
        ("/system.slice/a b.service", None),
    ] {
        assert_eq!(unified(&named(path)).systemd_unit(), Ok(unit.map(str::to_owned)), "{path}");
    }
    let unit = |text: &str| Cgroups::parse(text.as_bytes()).unwrap().systemd_unit();
    let one = Ok(Some("a.service".to_owned()));
    assert_eq!(unit("1:name=systemd:/system.slice/a.service\n0::/\n"), one);
    assert_eq!(unit("1:name=systemd:/system.slice/a.service\n0::/system.slice/a.service\n"), one);
    assert_eq!(unit("3:cpu:/system.slice/b.service\n1:name=systemd:/system.slice/a.service\n"), one);
    assert_eq!(
        unit("1:name=systemd:/system.slice/a.service\n0::/system.slice/b.service\n"),
        Err(CgroupError::Malformed)
    );
    assert_eq!(unit("3:cpu:/system.slice/b.service\n"), Ok(None), "not systemd's own hierarchy");
}

#[test]
fn odd_texts_are_refused() {
    for text in
        ["", "\n", "0:/", "x::/", "::/", "0:cpu:/", "1::/", "0::", "0::x", "0::/a//b", "0::/a/./b", "0::/a/"]
    {
        assert_eq!(Cgroups::parse(text.as_bytes()), Err(CgroupError::Malformed), "{text:?}");
    }
    for text in ["0::/..", "0::/../x", "0::/../../system.slice/nginx.service", "1:cpu:/a\n0::/a/../b"] {
        assert_eq!(Cgroups::parse(text.as_bytes()), Err(CgroupError::Outside), "{text:?}");
    }
    assert_eq!(Cgroups::parse(b"0::/a\n0::/b\n"), Err(CgroupError::Malformed), "twice the same hierarchy");
    assert_eq!(Cgroups::parse(b"0::/\xff\n"), Err(CgroupError::Malformed));
    assert_eq!(Cgroups::parse(&vec![b'0'; MAX_TEXT + 1]), Err(CgroupError::Malformed));
    assert!(Cgroups::parse(format!("0::{}", "/a".repeat(64)).as_bytes()).is_ok());
    assert!(Cgroups::parse(format!("0::{}", "/a".repeat(65)).as_bytes()).is_err());
    assert!(is_initial_namespace(b"cgroup:[4026531835]") && !is_initial_namespace(b"cgroup:[4026532835]"));
}

/// Components that attackers would try.
fn component() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("system.slice".to_owned()),
        Just("user.slice".to_owned()),
        Just("user-1000.slice".to_owned()),
        Just("user@1000.service".to_owned()),
        Just("nginx.service".to_owned()),
        Just("docker".to_owned()),
        Just("kubepods".to_owned()),
        Just("pod1".to_owned()),
        Just("containerd.service".to_owned()),
        Just(A.to_owned()),
        Just(format!("docker-{A}.scope")),
        Just(format!("libpod-{A}.scope")),
        Just(format!("x.slice:cri-containerd:{A}")),
        "[a-z@:_-][a-z@:._-]{0,12}",
    ]
}

proptest! {
    #[test]
    fn no_text_is_too_odd(text in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(cgroups) = Cgroups::parse(&text) {
            let _ = cgroups.container();
            let _ = cgroups.systemd_unit();
        }
    }

    /// Whatever stands below a unit that is no runtime's, it changes neither unit nor container.
    #[test]
    fn nothing_below_a_unit_counts(below in prop::collection::vec(component(), 1..6)) {
        let below = below.join("/");
        let cgroups = unified(&format!("/system.slice/nginx.service/{below}/x"));
        prop_assert_eq!(cgroups.systemd_unit(), Ok(Some("nginx.service".to_owned())));
        prop_assert_eq!(cgroups.container(), Ok(None));
        let cgroups = unified(&format!("/user.slice/user-7.slice/user@7.service/{below}/x"));
        prop_assert_eq!(cgroups.systemd_unit(), Ok(Some("user@7.service".to_owned())));
        if let Ok(Some(container)) = cgroups.container() {
            prop_assert_eq!(container.rootless, Some(7));
        }
    }

    /// Whoever is in a container stays in it, or is refused: names below it never lead into another one.
    #[test]
    fn nobody_leaves_a_container(below in prop::collection::vec(component(), 1..6)) {
        let cgroups = unified(&format!("/system.slice/docker-{B}.scope/{}/x", below.join("/")));
        match cgroups.container() {
            Ok(Some(container)) => prop_assert_eq!((container.id.as_str(), container.rootless), (B, None)),
            other => prop_assert_eq!(other, Err(CgroupError::Ambiguous)),
        }
    }
}
