//! Requests that make no sense, through the library: each is an error of its own build, and the others of the process go on.

use std::path::PathBuf;
use std::sync::Arc;

use builder_core::builder::{Builder, BuilderConfig, CancellationToken};
use builder_core::event::NoEvents;
use builder_core::frontend::{Compilation, Compiled, Frontend, HistoryEntry, Resolved, TargetImage};
use builder_core::graph::{CopyAction, Dest, FileAction, FileOp, GraphBuilder, Op, VertexId, VertexMeta};
use builder_core::oci::{ImageDocument, Platform};
use builder_core::request::{BuildRequest, Output, OutputDest, OutputKind};
use integration_tests::{Bed, Image};

/// What a frontend does wrong.
#[derive(Debug, Clone, Copy)]
enum Fault {
    None,
    Panics,
    /// The image is of this vertex.
    Target(u32),
    History(u32),
    /// A copy reads this input.
    Input(usize),
    /// A tree is changed that is not there.
    Base,
}

impl Frontend for Fault {
    fn compile(&self, _: &Resolved) -> Result<Compilation, Vec<builder_core::diagnostic::Diagnostic>> {
        let mut graph = GraphBuilder::new();
        let dest = Dest { path: "/f".into(), is_dir: false };
        let file = |name: &str| FileAction::MakeFile { dest: dest.clone(), name: name.into(), data: b"made".to_vec(), chmod: None, owner: None };
        let add = |graph: &mut GraphBuilder, base, actions| {
            let meta = VertexMeta { name: format!("[1/1] {self:?}"), ..VertexMeta::default() };
            graph.add(Op::File(FileOp { base, actions }), Vec::new(), meta)
        };
        let made = match self {
            Self::Panics => panic!("on purpose"),
            Self::Input(input) => {
                let copy = CopyAction::plain(*input, vec!["f".into()], dest);
                add(&mut graph, false, vec![FileAction::Copy(copy)])
            }
            Self::Base => add(&mut graph, true, vec![file("f")]),
            _ => add(&mut graph, false, vec![file("f")]),
        };
        let vertex = if let Self::Target(id) = self { VertexId(*id) } else { made };
        let history = if let Self::History(id) = self { VertexId(*id) } else { made };
        let target = TargetImage {
            platform: Platform::host(),
            vertex: Some(vertex),
            config: ImageDocument::default(),
            history: vec![HistoryEntry::New { created_by: "test".into(), vertex: Some(history) }],
        };
        let compiled = Compiled {
            graph: graph.finish(),
            targets: vec![target],
            warnings: Vec::new(),
            sources: Vec::new(),
            source_date_epoch: None,
            index: false,
        };
        Ok(Compilation::Ready(Box::new(compiled)))
    }
}

async fn build(builder: &Builder, fault: Fault, to: PathBuf) -> Result<(), String> {
    let mut request = BuildRequest::new(Arc::new(fault));
    request.outputs.push(Output::new(OutputKind::Oci { tar: true }, OutputDest::Path(to)));
    builder.build(request, Arc::new(NoEvents), CancellationToken::new()).await.map(drop).map_err(|error| error.to_string())
}

#[test]
fn cve_2024_23650_and_2026_15792_malformed_requests_end_no_other_build() {
    let bed = Bed::new();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let builder = Builder::new(BuilderConfig::new(bed.state())).expect("a store");
        let faults = [
            Fault::Panics,
            Fault::Target(1),
            Fault::Target(u32::MAX),
            Fault::History(7),
            Fault::History(u32::MAX),
            Fault::Input(0),
            Fault::Input(usize::MAX),
            Fault::Base,
        ];
        for (n, fault) in faults.into_iter().enumerate() {
            let (good, bad) = (bed.path(&format!("{n}.tar")), bed.path(&format!("{n}-bad.tar")));
            let (built, refused) = tokio::join!(build(&builder, Fault::None, good.clone()), build(&builder, fault, bad.clone()));
            built.unwrap_or_else(|error| panic!("beside {fault:?}: {error}"));
            assert_eq!(Image::read(&good).file("f").as_deref(), Some(&b"made"[..]), "{fault:?}");
            let error = refused.expect_err("it was built");
            assert!(error.contains("the frontend's: ") && !bad.exists(), "{fault:?}: {error}");
        }
    });
}
