//! Any history of an agent and its authority.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u32, bool),
    Remove(u8),
    Launch(i32, u32),
    AskAgain(i32),
    End(i32),
    Up(u8),
    Down(u8),
    Connect,
    Disconnect,
    Restart,
    Advance(i64),
    Refuse(bool),
    NewIncarnation,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..4_u8, 1..4_u32, any::<bool>()).prop_map(|(id, uid, rule)| Step::Put(id, uid, rule)),
        1 => (0..4_u8).prop_map(Step::Remove),
        4 => (1..6_i32, 1..4_u32).prop_map(|(pid, uid)| Step::Launch(pid, uid)),
        1 => (1..6_i32).prop_map(Step::AskAgain),
        2 => (1..6_i32).prop_map(Step::End),
        6 => (1..20_u8).prop_map(Step::Up),
        6 => (1..20_u8).prop_map(Step::Down),
        2 => Just(Step::Connect),
        1 => Just(Step::Disconnect),
        1 => Just(Step::Restart),
        2 => (1..700_i64).prop_map(Step::Advance),
        1 => any::<bool>().prop_map(Step::Refuse),
        1 => Just(Step::NewIncarnation),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever happens in between: once a stream has stayed open for a while, both sides agree.
    #[test]
    fn both_sides_agree_in_the_end(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Put(id, uid, false) => world.authority.put(entry(&format!("r{id}"), uid)),
                Step::Put(id, uid, true) => world.authority.put(rule(&format!("r{id}"), uid)),
                Step::Remove(id) => world.authority.remove(&format!("r{id}")),
                Step::Launch(pid, uid) => world.launch(pid, uid),
                Step::AskAgain(pid) => world.ask_again(pid),
                Step::End(pid) => world.end(pid),
                Step::Up(count) => (0..count).for_each(|_| world.deliver_up()),
                Step::Down(count) => (0..count).for_each(|_| world.deliver_down()),
                Step::Connect => world.connect(),
                Step::Disconnect => world.disconnect(),
                Step::Restart => world.restart(),
                Step::Advance(seconds) => world.advance(seconds),
                Step::Refuse(refuse) => {
                    world.authority.refuse = refuse.then(|| (String::from("rate.exceeded"), 5));
                }
                Step::NewIncarnation => {
                    world.disconnect();
                    world.authority.new_incarnation();
                }
            }
            world.publish();
            world.check();
        }
        world.authority.refuse = None;
        world.disconnect();
        world.connect();
        world.settle();
        // Past every wait, and past the first half of every life.
        for _ in 0..4 {
            world.advance(301);
            world.settle();
        }
        for pid in world.running.keys().copied().collect::<Vec<_>>() {
            world.ask_again(pid);
        }
        world.settle();
        world.check();
        world.check_at_rest();
    }
}
