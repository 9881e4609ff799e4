//! A new migration is not a changed source file, so cargo has to be told to look for it.

fn main() {
    println!("cargo::rerun-if-changed=../migrations");
}
