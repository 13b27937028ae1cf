"""Loss, penalties and zeros of a fit, drawn while it runs, and written to a table."""

import fastreg as fr

data = fr.datasets.among_noise(fr.datasets.load_digits())
x_train, y_train, x_test, y_test = data

hidden = fr.Dense(64, activation="relu", kernel_regularizer=fr.L1(1e-3))
output = fr.Dense(10, activation="softmax", kernel_regularizer=fr.L2(1e-4))
model = fr.Sequential([fr.Input((128,)), hidden, output])
optimizer = fr.Adam(2e-3, l1_step="cumulative")
model.compile(optimizer, "sparse_categorical_crossentropy", ["accuracy"])
model.fit(
    *(x_train, y_train),
    epochs=20,
    validation_data=(x_test, y_test),
    callbacks=[fr.ProgressPlot("progress.png", every=10), fr.CSVLogger("log.csv")],
    verbose=0,
)
print("progress.png shows the fit, log.csv has the numbers")
