//! A start under a system-call filter, as containers have it, says so; so does a process that a panic ends.

use super::*;

const SYSCALL_NUMBER_OFFSET: u32 = 0;

/// Lets the calling thread and its children make every system call but `denied`, which fail with EPERM.
fn deny(denied: &[libc::c_long]) {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut program = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, SYSCALL_NUMBER_OFFSET)];
    for &number in denied {
        let mut jump = statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number as u32);
        jump.jf = 1;
        program.push(jump);
        let refusal = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        program.push(statement(libc::BPF_RET | libc::BPF_K, refusal));
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the first call has no pointers; the second reads the program, which outlives it.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter), 0);
    }
}

/// What starting shards says where `denied` is refused. A filter holds for its thread and those that it
/// starts, so that a thread does what a process under a container's profile would.
fn refusal(denied: &'static [libc::c_long]) -> StartError {
    std::thread::spawn(|| {
        deny(denied);
        let started = ShardThreads::start(&Options::default(), vec![(), ()], Some(()), |_, ()| async {});
        started.err().expect("a start without io_uring is refused")
    })
    .join()
    .unwrap()
}

#[test]
fn a_filter_is_named_as_the_cause() {
    for (denied, call) in [
        (
            &[libc::SYS_io_uring_setup, libc::SYS_io_uring_register, libc::SYS_io_uring_enter][..],
            "io_uring_setup",
        ),
        (&[libc::SYS_io_uring_register][..], "io_uring_register"),
        (&[libc::SYS_io_uring_enter][..], "io_uring_enter"),
    ] {
        let error = refusal(denied);
        assert!(matches!(error, StartError::Filtered(refused) if refused == call), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(call) && text.contains("seccomp") && text.contains("allow"), "{text}");
    }
}

const CHILD: &str = "LOGMILL_TEST_PANICS_IN_A_TASK";

/// Runs itself in a process of its own, which must not survive.
#[test]
fn a_panicking_task_ends_the_process() {
    if std::env::var_os(CHILD).is_some() {
        let _ = block_on(|runtime| async move {
            runtime.spawn(async { panic!("on purpose") });
            runtime.sleep(Duration::from_secs(5)).await;
        });
        std::process::exit(0);
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "runtime::uring::tests::refusal::a_panicking_task_ends_the_process"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
    assert_eq!(signal, Some(libc::SIGABRT), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("shard 0: a task panicked") && text.contains("on purpose"), "{text}");
}
